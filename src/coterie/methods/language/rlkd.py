"""RLKD: knowledge distillation with a ranking loss (Peng and Zhang, COLING 2025, arXiv 2409.12545)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.losses.divergences import DivergenceName, find_divergence
from coterie.losses.ranking import Correlation, ranking_loss, top_union
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import LogitTaughtMethod
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers

DEFAULT_RANGE = 5


class RankingKD(LogitTaughtMethod):
    r"""The student learns to rank the most likely classes, or tokens, in the teacher's order; a divergence over all classes is added.

    With U the union of the student's and the teacher's top k, R a soft rank and ρ Pearson's correlation:

    .. math:: L = 2\, \overline{1 - \rho(R(z_s^U), R(z_t^U))} + \overline{D(p_t, p_s)}

    Args:
        group: one student.
        teachers: one or several.
        k: 5 (paper, with a divergence on downstream tasks), or all classes if there are fewer; 2 to the number of classes. None: that default.
        divergence: D. ``none``: the ranking loss only.
        ranking_weight: 2 (equation 1).
        label_weight: weight of the label loss, 0: the paper has no hard labels (section 3.3).
        dynamic_weight: weights each sample's divergence by the share of classes that the two top k have in common (appendix D, equation 2).
        deduplicate: False counts classes in both top k twice, as the authors' code does; see :func:`~coterie.losses.ranking_loss`.
        measure: ``spearman``, or ``pearson`` of the logits, the paper's control (table 8).
        strength: of the soft rank, 1 (code).
        temperature: of the divergence, 1 (paper).
        combination: how several teachers' logits are combined.

    Losses: ``label``, ``ranking``, ``distillation`` unless there is no divergence, and ``teacher_weights`` with learned ones.

    Raises:
        CoterieError: k above the number of classes.
    """

    unused: ClassVar[Unused] = {
        "divergence=none": ("temperature", "dynamic_weight"),
        "measure=pearson": ("strength",),
        "ranking_weight=0": ("deduplicate", "measure", "strength"),
        "ranking_weight=0 dynamic_weight=false": ("k",),
        "ranking_weight=0 divergence=none": ("k", "combination"),
    }

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        k: Annotated[int, Field(ge=2)] | None = None,
        divergence: DivergenceName | Literal["none"] = "forward_kl",
        ranking_weight: NonNegative = 2.0,
        label_weight: NonNegative = 0.0,
        dynamic_weight: bool = False,
        deduplicate: bool = True,
        measure: Correlation = "spearman",
        strength: Positive = 1.0,
        temperature: Positive = 1.0,
        combination: Literal["mean_probability", "mean_logit", "learned"] = "mean_probability",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, combination, label_loss)
        classes = group.num_classes
        self.k = min(DEFAULT_RANGE, classes) if k is None else k
        if self.k > classes:
            raise CoterieError(f"method.k={k}: there are {classes} classes; expected 2 to {classes}")
        self.divergence = None if divergence == "none" else find_divergence(divergence)
        self.ranking_weight = ranking_weight
        self.label_weight = label_weight
        self.dynamic_weight = dynamic_weight
        self.deduplicate = deduplicate
        self.measure: Correlation = measure
        self.strength = strength
        self.temperature = temperature

    def compare(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        teacher = self.combined(taught, targets, losses)
        losses |= self.supervised(logits, taught, targets, self.label_weight)
        (student,) = logits
        union = top_union(student, teacher, self.k)
        ranking = ranking_loss(student, teacher, self.k, self.strength, self.deduplicate, self.measure, union)
        losses["ranking"] = self.ranking_weight * ranking.mean()
        if self.divergence is not None:
            each = self.divergence(student, teacher, self.temperature, reduction="none")
            losses["distillation"] = (union.overlap * each if self.dynamic_weight else each).mean()
        return losses
