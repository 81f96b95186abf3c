"""ONE's gate: computes branch weights from the trunk's map. Training only, never exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks.fusion import channels_of
from coterie.networks.group import StudentGroup


class TrunkGate(nn.Module):
    """Softmax(ReLU(BN(W GAP(trunk map)))) over n branches.

    Args:
        group: branches on a trunk that outputs a map.
        outputs: number of branches to weight.

    Raises:
        CoterieError: nothing is shared, or no map crosses the split.

    Source: ONE (Zhu, Lan and Gong, NeurIPS 2018) as in its code: the ReLU zeroes about half of the normalised scores, which
    keeps the weights near uniform.
    """

    def __init__(self, group: StudentGroup, outputs: int) -> None:
        super().__init__()
        if group.trunk_shape is None:
            raise CoterieError(
                "the gate weighs the branches by the shared trunk's map, and these students share none; "
                "set network.at to a module to split at, such as network.at=auto"
            )
        self.score = nn.Linear(channels_of(group.trunk_shape), outputs)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, trunk_maps: Sequence[Tensor]) -> Tensor:
        """Returns weights [B, n], float32; several maps (one for each student's view) are averaged after pooling."""
        pooled = [each.mean((2, 3)) if each.ndim == 4 else each.mean(1) for each in trunk_maps]
        scores = self.norm(self.score(torch.stack(pooled).mean(0)))
        return torch.softmax(torch.relu(scores).float(), dim=1)
