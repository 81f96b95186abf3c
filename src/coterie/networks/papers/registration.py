"""Registers coterie's networks with timm."""

from __future__ import annotations

import importlib

_MODULES = ("densenet", "resnet", "tiny", "vgg", "wide_resnet")


def register() -> None:
    """Registers every network of the catalogue with timm, so that ``timm.create_model`` builds it by name.

    ``import coterie.networks`` calls it, as does everything in ``coterie`` that needs torch. Repeated calls have no effect.

    >>> import timm
    >>> register()
    >>> timm.create_model("resnet20_cifar", num_classes=10).num_features
    64
    """
    for module in _MODULES:
        importlib.import_module(f"coterie.networks.papers.{module}")
