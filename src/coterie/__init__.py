"""Knowledge distillation in PyTorch: train a group of networks that teach one another, and deploy one ordinary network.

    group = coterie.branch(network, branches=4, at="layer3")
    method = coterie.create_method("okdmde", group)
    losses = method(images, targets, coterie.Progress(epoch=0, epochs=300))

    result = coterie.train("recipe.yaml", output="runs/a")
    network = coterie.load_student("runs/a")
    result = coterie.compare("recipe.yaml", methods=["baseline", "okdmde"], seeds=5, output="comparisons/a")

Names and sub-packages (``coterie.methods``, ``coterie.losses``, ...) are imported lazily, so ``import coterie`` is fast. The first
one that imports torch also registers coterie's own networks with timm, for ``timm.create_model``. A program that uses only these
networks imports ``coterie.networks``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.comparison.run import ComparisonResult, compare
    from coterie.errors import CoterieError, RunError
    from coterie.export import export_run
    from coterie.methods import METHODS, create_method
    from coterie.methods.group_method import GroupMethod, Predictions
    from coterie.methods.method import Method
    from coterie.methods.progress import Progress
    from coterie.networks.branching import branch
    from coterie.networks.creation import create_network
    from coterie.networks.group import GroupOutput, StudentGroup
    from coterie.prediction import predict
    from coterie.recipe import Recipe, load_recipe
    from coterie.report import write_report
    from coterie.running.reload import evaluate_run
    from coterie.running.train import TrainResult, train
    from coterie.student import load_student
    from coterie.tasks.images.predict import load_transform
    from coterie.tasks.prediction import Prediction
from coterie.version import __version__ as __version__

_LOCATIONS = {
    "ComparisonResult": "coterie.comparison.run",
    "CoterieError": "coterie.errors",
    "GroupOutput": "coterie.networks.group",
    "METHODS": "coterie.methods",
    "GroupMethod": "coterie.methods.group_method",
    "Method": "coterie.methods.method",
    "Prediction": "coterie.tasks.prediction",
    "Predictions": "coterie.methods.group_method",
    "Progress": "coterie.methods.progress",
    "Recipe": "coterie.recipe",
    "RunError": "coterie.errors",
    "StudentGroup": "coterie.networks.group",
    "TrainResult": "coterie.running.train",
    "branch": "coterie.networks.branching",
    "compare": "coterie.comparison.run",
    "create_method": "coterie.methods",
    "create_network": "coterie.networks.creation",
    "evaluate_run": "coterie.running.reload",
    "export_run": "coterie.export",
    "load_recipe": "coterie.recipe",
    "load_student": "coterie.student",
    "load_transform": "coterie.tasks.images.predict",
    "predict": "coterie.prediction",
    "train": "coterie.running.train",
    "write_report": "coterie.report",
}

__all__ = [
    "METHODS",
    "ComparisonResult",
    "CoterieError",
    "GroupMethod",
    "GroupOutput",
    "Method",
    "Prediction",
    "Predictions",
    "Progress",
    "Recipe",
    "RunError",
    "StudentGroup",
    "TrainResult",
    "branch",
    "compare",
    "create_method",
    "create_network",
    "evaluate_run",
    "export_run",
    "load_recipe",
    "load_student",
    "load_transform",
    "predict",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _LOCATIONS:
        found = getattr(importlib.import_module(_LOCATIONS[name]), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        found = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if "torch" in sys.modules:
        importlib.import_module("coterie.networks")  # registers coterie's networks with timm
    return found


def __dir__() -> list[str]:
    modules = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}
    return sorted({*globals(), *__all__, *modules})
