"""RKD: Relational Knowledge Distillation (Park et al., CVPR 2019, arXiv 1904.05068)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses.relation import relation_loss
from coterie.methods.options import NonNegative
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import TaughtMethod
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers


class RKD(TaughtMethod):
    """Trains the relations between the samples of a batch to match the teacher's: distances of pairs and angles of triplets.

    Embeddings are compared only within each network, so student and teacher may differ in width and architecture.

    Args:
        group: one student.
        teachers: one.
        distance_weight: 25 (mdistiller's code, for classification). The paper's own code has 1, for metric learning.
        angle_weight: 50 (as above; 2).

    Losses: ``label``, ``feature``.
    """

    max_teachers: ClassVar[int | None] = 1
    min_batch: ClassVar[int] = 3  # a single pair's normalised distance is always 1, and angles need triplets

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        distance_weight: NonNegative = 25.0,
        angle_weight: NonNegative = 50.0,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, label_loss)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        (teacher,) = self.teacher_outputs(inputs)
        output = self.group(inputs)
        term = relation_loss(output.embeddings[0], teacher.embedding, self.distance_weight, self.angle_weight)
        return {**self.supervision(output.logits, inputs, targets), "feature": term}
