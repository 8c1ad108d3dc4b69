"""The methods, one file each."""

from ssl_lightning.methods.contrastive.clip import CLIP
from ssl_lightning.methods.contrastive.moco import MoCo
from ssl_lightning.methods.contrastive.moco_v3 import MoCoV3
from ssl_lightning.methods.contrastive.simclr import SimCLR
from ssl_lightning.methods.cycle_consistency.dcf import DCF
from ssl_lightning.methods.cycle_consistency.udt import UDT
from ssl_lightning.methods.generative.vae import VAE
from ssl_lightning.methods.masked.bert import BERT
from ssl_lightning.methods.masked.mae import MAE
from ssl_lightning.methods.masked.simmim import SimMIM
from ssl_lightning.methods.semi_supervised.fixmatch import FixMatch
from ssl_lightning.methods.supervised.classifier import Classifier
from ssl_lightning.methods.supervised.transformer import Transformer
from ssl_lightning.methods.transfer.detection_transfer import DetectionTransfer
from ssl_lightning.methods.transfer.fine_tune import FineTune
from ssl_lightning.methods.transfer.linear_probe import LinearProbe
from ssl_lightning.methods.transfer.map_probe import MapProbe
from ssl_lightning.methods.transform_prediction.aet import AET
from ssl_lightning.methods.transform_prediction.colorization import Colorization
from ssl_lightning.methods.transform_prediction.jigsaw import Jigsaw
from ssl_lightning.methods.transform_prediction.rotnet import RotNet
from ssl_lightning.methods.weakly_supervised.multi_tag import MultiTag

__all__ = [
    "AET",
    "BERT",
    "CLIP",
    "DCF",
    "MAE",
    "UDT",
    "VAE",
    "Classifier",
    "Colorization",
    "DetectionTransfer",
    "FineTune",
    "FixMatch",
    "Jigsaw",
    "LinearProbe",
    "MapProbe",
    "MoCo",
    "MoCoV3",
    "MultiTag",
    "RotNet",
    "SimCLR",
    "SimMIM",
    "Transformer",
]
