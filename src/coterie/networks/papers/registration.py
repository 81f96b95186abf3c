"""Makes coterie's networks known to timm."""

from __future__ import annotations

import importlib

_MODULES = ("densenet", "resnet", "tiny", "vgg", "wide_resnet")


def register() -> None:
    """Register every network of the catalogue, so that ``timm.create_model`` builds it by name.

    ``import coterie.networks`` calls it, and so does everything of ``coterie`` that needs torch; calling it again does nothing.

    >>> import timm
    >>> register()
    >>> timm.create_model("resnet20_cifar", num_classes=10).num_features
    64
    """
    for module in _MODULES:
        importlib.import_module(f"coterie.networks.papers.{module}")
