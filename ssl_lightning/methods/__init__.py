"""The methods, one file each."""

from ssl_lightning.methods.contrastive.moco import MoCo
from ssl_lightning.methods.contrastive.moco_v3 import MoCoV3
from ssl_lightning.methods.contrastive.simclr import SimCLR
from ssl_lightning.methods.supervised.classifier import Classifier

__all__ = ["Classifier", "MoCo", "MoCoV3", "SimCLR"]
