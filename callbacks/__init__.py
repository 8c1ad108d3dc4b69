"""Measurements and upkeep of a run: callbacks for Lightning's Trainer."""

from callbacks.attention_maps import AttentionMaps
from callbacks.checkpoint import ExactResume, RunCheckpoint
from callbacks.compile import Compile
from callbacks.data_wait import DataWait
from callbacks.detection import DetectionPictures, DetectionScore
from callbacks.feature_map import FeatureMap
from callbacks.features import Features, FeatureScore
from callbacks.finite import FiniteLoss
from callbacks.knn import KNNMonitor
from callbacks.labelled_indices import LabelledIndices
from callbacks.linear import LinearEvaluation
from callbacks.momentum import MomentumUpdate
from callbacks.pictures import PretextPictures
from callbacks.predictions import PredictionsFile
from callbacks.preemption import Preemption
from callbacks.rank import RankMonitor
from callbacks.results import ResultsFile
from callbacks.retrieval import Retrieval
from callbacks.tracking import FramePairs, OnePassEvaluation
from callbacks.weight_ema import WeightEMA
from callbacks.zero_shot import ZeroShot

__all__ = [
    "AttentionMaps",
    "Compile",
    "DataWait",
    "DetectionPictures",
    "DetectionScore",
    "ExactResume",
    "FeatureMap",
    "FeatureScore",
    "Features",
    "FiniteLoss",
    "FramePairs",
    "KNNMonitor",
    "LabelledIndices",
    "LinearEvaluation",
    "MomentumUpdate",
    "OnePassEvaluation",
    "PredictionsFile",
    "Preemption",
    "PretextPictures",
    "RankMonitor",
    "ResultsFile",
    "Retrieval",
    "RunCheckpoint",
    "WeightEMA",
    "ZeroShot",
]
