"""DiffKD: Knowledge Diffusion for Distillation (Huang et al., NeurIPS 2023, arXiv 2305.15712)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses import kl_divergence
from coterie.methods.method import Unused
from coterie.methods.options import AtLeastOne, NonNegative
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import TaughtMethod, single_view
from coterie.networks.diffusion import MOST_STEPS, Denoiser
from coterie.networks.fusion import FeatureShape, channels_of
from coterie.networks.group import StudentGroup
from coterie.networks.projection import as_grid
from coterie.networks.teacher import TeacherOutput, Teachers

Kind = Literal["diffusion", "projector", "none"]


class DiffKD(TaughtMethod):
    r"""A diffusion model of the teacher's features denoises the student's features, which are then trained to match the teacher's.

    For each tap, with Z_t the teacher's feature (through the autoencoder's encoder if there is one, detached), Z_s the student's by a 1x1
    convolution, and its denoised and projected form :math:`\hat Z_s`:

    .. math::
        L = CE(z_s, y) + w \sum_{taps} \big[ L_{diff} + L_{ae} + d(\hat Z_s, Z_t) \big], \qquad
        d = MSE \text{ of maps},\; KL \text{ of logits}

    Args:
        group: one student.
        teachers: one.
        taps: ``both`` for the last feature map and the logits (paper, CIFAR-100 recipe), or one of them.
        autoencoder: channels of the teacher's latent feature; None: no autoencoder, as in the CIFAR-100 recipe (1024 for ResNet-34/50 on ImageNet).
        steps: denoising steps, 5 (paper's ablation: 1, 3, 5, 10 and 20 differ by 0.3 points).
        noise_matching: the adapter that decides how much noise is mixed in (paper's "ANM").
        denoiser: ``diffusion``; or a control that separates denoising from capacity: ``projector``, the same network with the same depth, trained by d only and
            without noise (ours: the paper lacks it); ``none``: the 1x1 convolution and the projection only (the paper's own control).
        distillation_weight: w, 1 (paper; the code has one factor for the whole bracket).
        standardise: whether the teacher's features are normalised to zero mean and unit variance by channel, with running statistics. The noise schedule
            assumes it, the paper does not do it; off.

    The denoising is not detached: d trains the student, the 1x1 convolution, the adapter, the projection and the noise predictor. Only its own term trains the
    autoencoder. Inference uses the student's original features.

    Losses: ``label``, ``distillation`` (d), and ``diffusion`` and ``autoencoder`` if used.
    """

    max_teachers: ClassVar[int | None] = 1
    min_batch: ClassVar[int] = 2  # BatchNorm, where a map may have a single position
    unused: ClassVar[Unused] = {
        "taps=logits": ("autoencoder", "standardise"),
        "denoiser=none": ("steps", "noise_matching"),
        "denoiser=projector": ("noise_matching",),
        "distillation_weight=0": ("taps", "autoencoder", "steps", "noise_matching", "denoiser", "standardise"),
    }

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        taps: Literal["both", "feature", "logits"] = "both",
        autoencoder: AtLeastOne | None = None,
        steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 5,
        noise_matching: bool = True,
        denoiser: Kind = "diffusion",
        distillation_weight: NonNegative = 1.0,
        standardise: bool = False,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, label_loss)
        self.distillation_weight = distillation_weight
        teacher = self.teachers[0]
        self.feature: _Tap | None = None
        self.logits: _Tap | None = None
        if taps != "logits":
            shapes = (group.feature_shapes[0], teacher.feature_shape)
            self.feature = _Tap(*shapes, autoencoder, steps, noise_matching, standardise, denoiser)
        if taps != "feature":
            classes = (group.num_classes, 1, 1)
            self.logits = _Tap(classes, classes, None, steps, noise_matching, False, denoiser, spatial=False)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        (teacher,) = self.teacher_outputs(inputs)
        output = self.group(inputs)
        losses = self.supervision(output.logits, inputs, targets)
        terms = self.bracket(output.feature_maps[0], output.logits[0], teacher)
        return losses | {name: self.distillation_weight * term for name, term in terms.items()}

    def bracket(self, feature_map: Tensor, logits: Tensor, teacher: TeacherOutput) -> dict[str, Tensor]:
        """Returns the unweighted terms of both taps by name."""
        sums: dict[str, Tensor] = {}

        def add(name: str, term: Tensor) -> None:
            sums[name] = sums[name] + term if name in sums else term

        if self.feature is not None:
            wanted, reconstruction = self.feature.target(teacher.feature_map)
            if reconstruction is not None:
                add("autoencoder", reconstruction)
            own, _ = self.feature.student(feature_map, wanted)
            add("distillation", F.mse_loss(own.float(), wanted.float()))
            if self.feature.diffuses:
                add("diffusion", self.feature.denoiser.diffusion_loss(wanted))
        if self.logits is not None:
            wanted, _ = self.logits.target(teacher.logits[:, :, None, None])
            own, _ = self.logits.student(logits[:, :, None, None], wanted)
            add("distillation", kl_divergence(own.flatten(1), teacher.logits))
            if self.logits.diffuses:
                add("diffusion", self.logits.denoiser.diffusion_loss(wanted))
        return sums

    @torch.no_grad()
    def mechanism(self, inputs: Inputs) -> dict[str, float]:
        """Measures on one batch whether denoising brings the student's map closer to the teacher's.

        Call it in eval mode with ``method.feature.train()``, so that BatchNorm in the tap uses batch statistics as in training: its running statistics mix
        denoising and diffusion loss and fit neither.

        Returns:
            ``diffusion_loss``; ``distance`` of the denoised and projected feature from the teacher's and ``distance_without`` of the projected feature without
            denoising (mean squares); ``cosine`` and ``cosine_without`` of the same pairs, over a sample's whole map; the mean ``gamma`` with noise matching.
            All are for the feature tap.
        """
        assert self.feature is not None, "the map's tap is off"
        assert self.feature.diffuses, "nothing diffuses"
        (teacher,) = self.teacher_outputs(inputs)
        wanted, _ = self.feature.target(teacher.feature_map)
        output = self.group(single_view(inputs))
        own, gamma = self.feature.student(output.feature_maps[0], wanted)
        plain = self.feature.project(self.feature.transform_map(output.feature_maps[0], wanted))
        figures = {
            "diffusion_loss": self.feature.denoiser.diffusion_loss(wanted),
            "distance": F.mse_loss(own, wanted),
            "distance_without": F.mse_loss(plain, wanted),
            "cosine": F.cosine_similarity(own.flatten(1), wanted.flatten(1)).mean(),
            "cosine_without": F.cosine_similarity(plain.flatten(1), wanted.flatten(1)).mean(),
        } | ({"gamma": gamma.mean()} if gamma is not None else {})
        return {name: float(value) for name, value in figures.items()}


class _Tap(nn.Module):
    """One tap: autoencoder, transform, denoiser and projection."""

    def __init__(
        self,
        shape: FeatureShape,
        target: FeatureShape,
        autoencoder: int | None,
        steps: int,
        noise_matching: bool,
        standardise: bool,
        kind: Kind,
        spatial: bool = True,
    ) -> None:
        super().__init__()
        self.shape, self.target_shape = tuple(shape), tuple(target)
        channels = autoencoder or channels_of(target)
        self.encoder: nn.Module | None = None
        if autoencoder is not None:
            self.encoder = nn.Sequential(
                nn.Conv2d(channels_of(target), channels, 1, bias=False), nn.BatchNorm2d(channels)
            )
            self.decoder = nn.Conv2d(channels, channels_of(target), 1)
        self.standardise = nn.BatchNorm2d(channels, affine=False) if standardise else nn.Identity()
        self.transform = nn.Conv2d(channels_of(shape), channels, 1)
        self.kind = kind
        if kind != "none":
            self.denoiser = Denoiser(channels, spatial, steps, noise_matching and self.diffuses)
        self.project = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    @property
    def diffuses(self) -> bool:
        """Whether there is a diffusion model."""
        return self.kind == "diffusion"

    def target(self, teacher: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns Z_t, detached, and the autoencoder's error."""
        grid = as_grid(teacher, self.target_shape)
        if self.encoder is None:
            return self.standardise(grid).detach(), None
        latent = self.encoder(grid)
        error = F.mse_loss(self.decoder(latent).float(), grid.float())
        return self.standardise(latent).detach(), error

    def transform_map(self, student: Tensor, wanted: Tensor) -> Tensor:
        """Returns Z_s at the teacher's resolution."""
        own = self.transform(as_grid(student, self.shape))
        return (
            own if own.shape[2:] == wanted.shape[2:] else F.adaptive_avg_pool2d(own, (wanted.shape[2], wanted.shape[3]))
        )

    def student(self, student: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the student's feature, denoised and projected, and gamma."""
        start = self.transform_map(student, wanted)
        if not self.diffuses:
            return self.project(start if self.kind == "none" else self.denoiser.project(start)), None
        start, gamma = self.denoiser.mixed_with_noise(start)
        return self.project(self.denoiser.denoise(start)), gamma
