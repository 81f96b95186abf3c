"""Margin-MSE: distils the margin between a query's document and the others (Hofstätter et al., 2020, arXiv 2010.02666)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses.embedding import margin_mse, one_hot_loss
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.retrieval.dual_encoder import DualEncoderMethod, without_excluded


class MarginMSE(DualEncoderMethod):
    """A control for EmbedDistill that uses score differences only.

    The paper uses one mined negative for each query, and a cross-encoder's scores. Here, with a dual encoder as teacher, all other documents of the batch are
    negatives; with a cross-encoder, those that it has scored with the query. A cross-encoder's logits are scaled to suit vectors of length 1 (``teacher.scale``),
    since the paper's inner products are unbounded.

    Args:
        encoder: see :class:`~coterie.methods.retrieval.dual_encoder.DualEncoderMethod`.
        weight: weight of the margins' squared error.
        onehot: weight of the label loss, 0 (paper).
        temperature: temperature of the label loss.

    Losses: ``distillation``, and ``label`` if its weight is above 0.
    """

    unused: ClassVar[Unused] = {"onehot=0": ("temperature",)}

    def __init__(
        self, encoder: nn.Module, *, weight: Positive = 1.0, onehot: NonNegative = 0.0, temperature: Positive = 0.05
    ) -> None:
        super().__init__(encoder)
        self.weight, self.onehot, self.temperature = weight, onehot, temperature

    @property
    def label_factor(self) -> float:
        return self.onehot

    @property
    def reads_teacher(self) -> bool:
        return True

    def forward(self, inputs: Inputs, targets: Any, progress: Progress | None = None) -> dict[str, Tensor]:
        batch = self.encode(inputs, targets)
        scores = batch.scores
        losses = {"distillation": self.weight * margin_mse(scores, batch.teacher_scores, batch.known)}
        if self.onehot:
            masked = without_excluded(scores, batch.excluded)
            losses["label"] = self.onehot * one_hot_loss(masked, self.temperature)
        return losses
