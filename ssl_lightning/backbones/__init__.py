"""Backbones by name: our own, torchvision's and timm's."""

from ssl_lightning.backbones.backbone import Backbone
from ssl_lightning.backbones.build import build, list_backbones

__all__ = ["Backbone", "build", "list_backbones"]
