"""AFD: Feature-map-level Online Adversarial Knowledge Distillation (Chung et al., ICML 2020, arXiv 2002.01775)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses.mutual import mutual_divergence
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.networks.discriminator import MapDiscriminator, MapTranslator, frozen_score
from coterie.networks.group import StudentGroup


class AFD(GroupMethod):
    r"""Peers that learn from one another's logits; each peer's feature maps are trained adversarially to look like the next peer's.

    Discriminator :math:`D_k` belongs to student k. It learns to give 1 for the next student's last map and 0 for student k's; student k tries to get a 1 for
    its own map. Students form a cycle: 1 → 2 → ... → n → 1.

    .. math::
        L = \sum_k CE(z_k, y) + \lambda w\, L_{mutual} + \gamma \sum_k (D_k(F_k) - 1)^2, \qquad
        L_D = \sum_k (D_k(F_{k+1}) - 1)^2 + D_k(F_k)^2

    Args:
        group: whole networks by default. Maps of different shapes pass a 1x1 convolution before the discriminator; mixing networks with maps and networks with
            tokens is an error.
        temperature: T, 3 (recalled).
        distillation_weight: λ, 1 (recalled).
        ramp_up: share of training over which w rises; 0: no ramp-up.
        adversarial_weight: γ, 1 (ours). The paper updates the maps' adversarial loss with a separate Adam step; here it is a term of the one loss, so that one
            forward and one backward pass suffice.
        discriminator_learning_rate, discriminator_weight_decay: settings of the discriminators' Adam, 2e-5 and 0.1 (recalled).

    Only the abstract was read and no code was found: the least-squares form, constants and discriminators are a reconstruction.

    Losses: ``label``, ``distillation``, ``feature`` (students against discriminators) and ``discriminator``.

    Raises:
        CoterieError: maps and tokens mixed.
    """

    default_branches: ClassVar[int] = 2
    default_at: ClassVar[str | None] = None
    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature", "ramp_up")}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 3.0,
        distillation_weight: NonNegative = 1.0,
        ramp_up: Share = 0.0,
        adversarial_weight: NonNegative = 1.0,
        discriminator_learning_rate: Positive = 2e-5,
        discriminator_weight_decay: NonNegative = 0.1,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        shapes = group.feature_shapes
        if len({len(shape) for shape in shapes}) > 1:
            raise CoterieError(
                f"afd compares feature maps position by position, and these are maps beside tokens: {list(shapes)}; choose networks of one kind"
            )
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.ramp_up = ramp_up
        self.adversarial_weight = adversarial_weight
        self.discriminator_learning_rate = discriminator_learning_rate
        self.discriminator_weight_decay = discriminator_weight_decay
        count = group.num_students
        following = [shapes[(number + 1) % count] for number in range(count)]
        pairs = list(zip(shapes, following, strict=True)) if count > 1 else []
        self.translators = nn.ModuleList(
            nn.Identity() if own == other else MapTranslator(own, other) for own, other in pairs
        )
        self.discriminators = nn.ModuleList(MapDiscriminator(other) for _, other in pairs)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        logits, maps = output.logits, output.feature_maps
        losses = self.supervision(logits, inputs, targets)
        if len(logits) == 1:
            return losses
        weight = self.distillation_weight * self.ramp(progress, self.ramp_up)
        losses["distillation"] = weight * mutual_divergence(logits, logits.detach(), self.temperature)
        fooling, telling = [], []
        for number, (translate, discriminator) in enumerate(zip(self.translators, self.discriminators, strict=True)):
            own = translate(maps[number])
            other = maps[(number + 1) % len(maps)].detach()
            fooling.append((frozen_score(discriminator, own) - 1).square().mean())
            # One pass over both kinds of maps: a map's score does not depend on the others in the batch.
            real, fake = discriminator(torch.cat([other, own.detach()])).split(len(own))
            telling.append((real - 1).square().mean() + fake.square().mean())
        losses["feature"] = self.adversarial_weight * torch.stack(fooling).sum()
        losses["discriminator"] = torch.stack(telling).sum()
        return losses

    def parameter_groups(self) -> list[dict[str, Any]]:
        own = {id(parameter) for parameter in self.discriminators.parameters()}
        return [{"params": [p for p in self.parameters() if p.requires_grad and id(p) not in own]}]

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        parameters = list(self.discriminators.parameters())
        if not parameters:
            return {}
        rate, decay = self.discriminator_learning_rate, self.discriminator_weight_decay
        return {"discriminators": torch.optim.Adam(parameters, lr=rate, weight_decay=decay)}
