"""Knowledge distillation in PyTorch: a group of networks that teach one another, and one ordinary network that comes out.

    group = coterie.branch(network, branches=4, at="layer3")
    method = coterie.create_method("okdmde", group)
    losses = method(images, targets, coterie.Progress(epoch=0, epochs=300))

    result = coterie.train("recipe.yaml", output="runs/a")
    network = coterie.load_student("runs/a")
    result = coterie.compare("recipe.yaml", methods=["baseline", "okdmde"], seeds=5, output="comparisons/a")

Names are imported when they are used, so that ``import coterie`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.comparison.run import ComparisonResult, compare
    from coterie.errors import CoterieError, RunError
    from coterie.export import export_run
    from coterie.methods import METHODS, create_method
    from coterie.methods.method import Method, Predictions
    from coterie.methods.progress import Progress
    from coterie.networks.branching import branch
    from coterie.networks.group import GroupOutput, StudentGroup
    from coterie.recipe import Recipe, load_recipe
    from coterie.report import write_report
    from coterie.student import create_network, load_student
    from coterie.training.run import TrainResult, train

__version__ = "0.1.0"

_LOCATIONS = {
    "ComparisonResult": "coterie.comparison.run",
    "CoterieError": "coterie.errors",
    "GroupOutput": "coterie.networks.group",
    "METHODS": "coterie.methods",
    "Method": "coterie.methods.method",
    "Predictions": "coterie.methods.method",
    "Progress": "coterie.methods.progress",
    "Recipe": "coterie.recipe",
    "RunError": "coterie.errors",
    "StudentGroup": "coterie.networks.group",
    "TrainResult": "coterie.training.run",
    "branch": "coterie.networks.branching",
    "compare": "coterie.comparison.run",
    "create_method": "coterie.methods",
    "create_network": "coterie.student",
    "export_run": "coterie.export",
    "load_recipe": "coterie.recipe",
    "load_student": "coterie.student",
    "train": "coterie.training.run",
    "write_report": "coterie.report",
}

__all__ = [
    "METHODS",
    "ComparisonResult",
    "CoterieError",
    "GroupOutput",
    "Method",
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
    "export_run",
    "load_recipe",
    "load_student",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _LOCATIONS:
        return getattr(importlib.import_module(_LOCATIONS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
