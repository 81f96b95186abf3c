"""After AMD: Automatic Multi-step Distillation of Large-scale Vision Models (Han et al., ECCV 2024, arXiv 2407.04208)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses import kl_divergence, mean_probability
from coterie.methods.group_method import Predictions
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.methods.teacher.kd import KD
from coterie.methods.teacher.taught import TaughtMethod, single_view
from coterie.networks.group import StudentGroup
from coterie.networks.pieces import TwoModeModule
from coterie.networks.pruning import apply_masks, column_masks, find_structures, keep_masks, scale
from coterie.networks.teacher import Teacher, Teachers


def _far_from_the_datas(teacher: Teacher) -> bool:
    """Whether a teacher's normalisation constants differ from the data's by more than a different sample of the same data would explain."""
    if teacher.factor is None or teacher.shift is None:
        return False
    return bool((teacher.factor - 1).abs().max() > STATISTICS_APART or teacher.shift.abs().max() > STATISTICS_APART)


STATISTICS_APART = 0.05  # in standard deviations

Selection = Literal["npsd", "tradeoff"] | Share


class Assistants(TaughtMethod):
    r"""First stage: trains all candidates for a teacher's assistant together in one network and chooses the best trade-off.

    The network has the teacher's architecture and starts from its weights. Candidate k omits a share of its structures (heads, neurons, channels), those with the lowest
    scores first; candidates share their parameters. With its logits :math:`z_k` and embedding :math:`h_k`:

    .. math:: L = \frac1m \sum_k \big[ CE(z_k, y) + T^2 KL(p_t^T \| p_k^T) + \mu \|h_k - h_t\|^2 \big]

    A reconstruction: only the grid of scales, shared parameters, joint optimisation, a composite loss and the criterion's name are known, from the abstract and summaries.
    What is pruned, and by which score, is ours (MiniDisc, the closest related method that could be read, ranks by gradients of masks).

    Args:
        group: one network of the teacher's architecture.
        teachers: one.
        sparsities: share of the structures that each candidate omits; 0, the whole network, is added.
        selection: ``npsd``: the largest :math:`-(P_0 - P_k) / (S_0 - S_k)` of validation accuracy P and share of parameters S (our reading of the Negative
            Performance-Scale Derivative); ``tradeoff``: the largest :math:`P_k + \lambda (1 - S_k)` (MiniDisc); a number: the candidate with this sparsity, regardless of
            its accuracy (a control).
        tradeoff: λ, 0.2 (MiniDisc's code).
        smallest: the student's share of the parameters; candidates that are not larger are not chosen. A run sets it automatically if the teacher is a run.
        temperature: T, 4.
        feature_weight: μ, 1; mean squared error.

    Each candidate has its own BatchNorm running statistics, since activations depend on what is omitted.

    The summary lists the candidates as students. The chosen one is deployed: the teacher's network with zeros. Statistics: ``scale``, S of each.

    Losses: ``label``, ``distillation``, ``feature``.

    Raises:
        CoterieError: an architecture that differs from the teacher's or has no known prunable structures, a teacher that needs other images than the data's, or sparsities
            that leave no candidate between student and teacher.
    """

    max_teachers: ClassVar[int | None] = 1
    unused: ClassVar[Unused] = {"selection!=tradeoff": ("tradeoff",)}

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        sparsities: list[Share] | None = None,
        selection: Selection = "npsd",
        tradeoff: NonNegative = 0.2,
        smallest: Share = 0.0,
        temperature: Positive = 4.0,
        feature_weight: NonNegative = 1.0,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, label_loss)
        (network,) = group.branches
        if isinstance(network, TwoModeModule):
            raise CoterieError("amd masks weights of one graph, and this network computes otherwise in training")
        try:
            network.load_state_dict(self.teachers[0].body.state_dict())
        except RuntimeError:
            raise CoterieError(
                f"amd's assistants are pruned from the teacher {self.teachers[0].name!r}, so they need its architecture"
            ) from None
        if self.teachers[0].size is not None or _far_from_the_datas(self.teachers[0]):
            raise CoterieError(
                "amd's assistants take over the teacher's weights and see the data's images, and this teacher wants another size or normalisation; use one that was trained on them"
            )
        wanted = [0.0, *sorted(sparsities or [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])]
        if isinstance(selection, float) and selection not in wanted[1:]:
            raise CoterieError(f"method.selection={selection:g}: expected npsd, tradeoff or one of method.sparsities")
        self.selection = selection
        self.tradeoff = tradeoff
        self.temperature = temperature
        self.feature_weight = feature_weight
        self.sparsities = wanted
        self.candidates = len(wanted)
        self.structures = find_structures(network)
        for number, sparsity in enumerate(wanted):
            for place, keep in enumerate(keep_masks(network, self.structures, sparsity)):
                self.register_buffer(f"keep_{number}_{place}", keep)  # saved, since a reloaded run has no teacher
        saved = network.state_dict().keys()
        self.buffer_names = [name for name, _ in network.named_buffers() if name in saved]
        for number in range(self.candidates):
            for place, name in enumerate(self.buffer_names):
                self.register_buffer(f"statistics_{number}_{place}", network.get_buffer(name).clone())
        self.smallest = smallest
        if isinstance(selection, str) and not self._eligible():
            shares = ", ".join(f"{share:.2f}" for share in self.scales[1:])
            raise CoterieError(
                f"method.sparsities={wanted[1:]}: candidates have {shares} of the teacher's parameters; expected at least one below 1 and above the student's {smallest:.2f}"
            )

    def _masks(self, candidate: int) -> list[Tensor]:
        return [self.get_buffer(f"keep_{candidate}_{place}") for place in range(len(self.structures))]

    @property
    def scales(self) -> list[float]:
        """Share of the parameters that each candidate has."""
        (network,) = self.group.branches
        return [scale(network, self.structures, self._masks(number)) for number in range(self.candidates)]

    def _eligible(self) -> list[int]:
        return [number for number, share in enumerate(self.scales) if number and self.smallest < share < 1]

    def _statistics(self, candidate: int) -> dict[str, Tensor]:
        """A candidate's own buffers, by their names in the network."""
        return {
            name: self.get_buffer(f"statistics_{candidate}_{place}") for place, name in enumerate(self.buffer_names)
        }

    @property
    def needs_validation(self) -> bool:
        return True  # for the choice of the candidate

    @property
    def label_factor(self) -> float:
        return 1.0  # a mean over the candidates

    def _run(self, candidate: int, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embedding of one candidate."""
        (network,) = self.group.branches
        parameters = dict(network.named_parameters())
        factors = column_masks(self.structures, self._masks(candidate), network)
        masked = {name: parameters[name] * factor for name, factor in factors.items()}
        output = torch.func.functional_call(network, {**masked, **self._statistics(candidate)}, (images,))
        return output[0], output[1]

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        (teacher,) = self.teacher_outputs(inputs)
        images = single_view(inputs)
        outputs = [self._run(candidate, images) for candidate in range(self.candidates)]
        logits = torch.stack([each for each, _ in outputs])
        errors = [F.mse_loss(embedding.float(), teacher.embedding.float()) for _, embedding in outputs]
        count = len(outputs)
        return {
            **self.supervision(logits, inputs, targets, 1 / count),
            "distillation": kl_divergence(logits, teacher.logits, self.temperature).mean(),
            "feature": self.feature_weight * torch.stack(errors).mean(),
        }

    def predict(self, inputs: Inputs) -> Predictions:
        images = single_view(inputs)
        logits = torch.stack([self._run(candidate, images)[0] for candidate in range(self.candidates)])
        scales = torch.tensor(self.scales, device=images.device).expand(len(images), -1)
        return Predictions(logits, mean_probability(logits), logits[self.deployed_student], {"scale": scales})

    def choose(self, accuracies: list[float]) -> int:
        """Chooses the candidate with the best trade-off, excluding the whole network and candidates that are not larger than the student."""
        if isinstance(self.selection, float):
            return self.sparsities.index(self.selection, 1)
        scales = self.scales

        def score(number: int) -> float:
            if self.selection == "tradeoff":
                return accuracies[number] + self.tradeoff * (1 - scales[number])
            return -(accuracies[0] - accuracies[number]) / (1 - scales[number])

        return max(self._eligible(), key=score)

    def student(self) -> nn.Module:
        network = self.group.student(0)
        masks = self._masks(self.deployed_student)
        apply_masks(network, column_masks(self.structures, masks, self.group.branches[0]))
        for name, value in self._statistics(self.deployed_student).items():
            network.get_buffer(name).copy_(value)
        return network


class AMD(KD):
    """Teacher to assistant to student: the second stage is KD from the assistant chosen by :class:`Assistants`.

    As a run, one command does both stages: the first in ``assistant/`` inside the run folder, with the teacher's network and as many epochs; it can be resumed like any
    run. In a custom training loop this is KD, and ``teachers`` is the assistant.

    Args:
        group, teachers, temperature, label_weight, distillation_weight: as in :class:`~coterie.methods.teacher.kd.KD`.
        sparsities, selection, tradeoff: settings of the first stage, see :class:`Assistants`.
    """

    max_teachers: ClassVar[int | None] = 1
    first_stage: ClassVar[str | None] = "coterie.methods.teacher.amd:Assistants"
    first_stage_options: ClassVar[tuple[str, ...]] = ("sparsities", "selection", "tradeoff")
    unused: ClassVar[Unused] = {
        "selection!=tradeoff": ("tradeoff",),
        "distillation_weight=0": ("temperature",),
    }

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        temperature: Positive = 4.0,
        label_weight: NonNegative = 0.1,
        distillation_weight: NonNegative = 0.9,
        sparsities: list[Share] | None = None,
        selection: Selection = "npsd",
        tradeoff: NonNegative = 0.2,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(
            group,
            teachers=teachers,
            temperature=temperature,
            label_weight=label_weight,
            distillation_weight=distillation_weight,
            label_loss=label_loss,
        )
        # The first stage reads its settings from the recipe; here they are only validated.
        del sparsities, selection, tradeoff
