"""Freezes parts of pretrained students: the backbones for some epochs or to the end, or only BatchNorm's running statistics."""

from __future__ import annotations

import math
from typing import Literal

from coterie.errors import CoterieError
from coterie.methods.method import Method


class Freezing:
    """Freezes the students' backbones: their weights get no gradient, and their normalisation layers keep their running statistics.

    What is frozen depends only on the epoch. Dropout within the backbone stays active.

    Args:
        setting: ``network.freeze``: a number of epochs, or ``backbone``: to the end.
        method: the method whose students are frozen, except for the last layer of each.
        num_processes: number of processes that train together.
        statistics: ``network.hold_statistics``: the normalisation layers keep their running statistics, and normalise by them, to the end.

    Raises:
        CoterieError: the students have no classifier of their own, or the number of gradients would change between epochs with several processes.
    """

    def __init__(
        self, setting: int | Literal["backbone"], method: Method, num_processes: int = 1, statistics: bool = False
    ) -> None:
        self.epochs = math.inf if setting == "backbone" else float(setting)
        self.setting, self.statistics = setting, statistics
        self._parameters = []
        self._layers = [each for each in method.networks.modules() if getattr(each, "running_mean", None) is not None]
        if not self.epochs:
            return
        if setting != "backbone" and num_processes > 1:
            raise CoterieError(
                f"network.freeze={setting} changes in training what several processes exchange; "
                "use network.freeze=backbone, or train the second part from network.weights"
            )
        heads = [module for classifier in method.classifiers for module in classifier.modules()]
        free = {id(parameter) for module in heads for parameter in module.parameters()}
        self._parameters = [p for p in method.networks.parameters() if p.requires_grad and id(p) not in free]
        if not self._parameters or not free:
            what = "no layer of their own that classifies" if self._parameters else "nothing but their classifiers"
            raise CoterieError(f"network.freeze={setting}: the students have {what}; leave it out")
        if not statistics:
            known = set(map(id, heads))
            self._layers = [each for each in self._layers if id(each) not in known]

    def warnings(self, has_weights: bool) -> list[str]:
        """Returns warnings about settings that freeze untrained weights or nothing.

        Args:
            has_weights: whether the students start from trained weights.
        """
        found = []
        if self.is_frozen(0) and not has_weights:
            found.append(f"network.freeze={self.setting} holds weights that are random; see network.pretrained")
        if self.statistics and not self._layers:
            found.append(
                "network.hold_statistics=true holds nothing: the students have no layer with running statistics"
            )
        elif self.statistics and not has_weights:
            found.append("network.hold_statistics=true holds statistics of nothing yet; see network.pretrained")
        return found

    def is_frozen(self, epoch: int) -> bool:
        return epoch < self.epochs

    def apply(self, epoch: int) -> None:
        """Freeze or unfreeze the backbones for this epoch; call this after the method was put in train mode."""
        held = self.is_frozen(epoch)
        for parameter in self._parameters:
            parameter.requires_grad_(not held)
        for layer in self._layers if held or self.statistics else ():
            layer.eval()
