"""A dual encoder trained from labels only, with in-batch negatives (Henderson et al., 2017, arXiv 1705.00652, section 4.4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses.embedding import one_hot_loss
from coterie.methods.options import Positive
from coterie.methods.progress import Progress
from coterie.methods.retrieval.dual_encoder import DualEncoderMethod, without_excluded


class Contrastive(DualEncoderMethod):
    """In-batch softmax cross-entropy, as sentence-transformers' ``MultipleNegativesRankingLoss`` with scale 1/τ.

    Args:
        encoder: see :class:`~coterie.methods.retrieval.dual_encoder.DualEncoderMethod`.
        temperature: τ, 0.05: sentence-transformers' default scale of 20.

    Losses: ``label``.
    """

    def __init__(self, encoder: nn.Module, *, temperature: Positive = 0.05) -> None:
        super().__init__(encoder)
        self.temperature = temperature

    @property
    def label_factor(self) -> float:
        return 1.0

    def forward(self, inputs: Inputs, targets: Any, progress: Progress | None = None) -> dict[str, Tensor]:
        batch = self.encode(inputs, targets)
        return {"label": one_hot_loss(without_excluded(batch.scores, batch.excluded), self.temperature)}
