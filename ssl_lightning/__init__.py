"""ssl_lightning: visual representation learning on PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_backbone"]

if TYPE_CHECKING:
    from ssl_lightning.export import load_backbone


def __getattr__(name: str) -> Any:
    if name == "load_backbone":  # on first use: `ssl-lightning --help` answers without torch
        from ssl_lightning.export import load_backbone  # noqa: PLC0415

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
