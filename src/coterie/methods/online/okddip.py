"""OKDDip: Online Knowledge Distillation with Diverse Peers (Chen et al., AAAI 2020, arXiv 1912.00350)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses import kl_divergence
from coterie.losses.precision import einsum, matmul
from coterie.methods.group_method import GroupMethod, Predictions
from coterie.methods.method import Unused
from coterie.methods.options import AtLeastOne, NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.networks.group import GroupOutput, StudentGroup


class OKDDip(GroupMethod):
    r"""Each peer has its own target, mixed by attention over the peers; a group leader learns from the peers' mean and is deployed.

    With pooled features :math:`h_a` of the m peers, :math:`q_a = W_q h_a`, :math:`k_a = W_k h_a` and the leader's logits
    :math:`z_L`:

    .. math::
        A_{ab} = softmax_b(q_a \cdot k_b), \qquad t_a = \sum_b A_{ab} z_b

        L = \sum_a CE(z_a, y) + CE(z_L, y) + \lambda w \Big[ \sum_a T^2 KL(t_a^T \| p_a^T) + T^2 KL(\bar z^T \| p_L^T) \Big]

    Args:
        group: branches or whole networks ("MulStu" in the code), the last one being the leader.
        temperature: T, 3 (the authors' code).
        distillation_weight: λ, 1 (code).
        ramp_up: share of training over which w rises, 80 of 300 epochs (code).
        detach_target: whether the targets are detached. False, as in the code: only the gradient through the targets trains W_q and W_k. With True they keep
            their initial values and are frozen.
        reduction: queries and keys have 1/8 of the features' width (code), at least 1.
        leader: False: all students are peers (``en=True`` in the code); any of them may be deployed.

    The code's attention score is a dot product of queries and keys (a digest of the paper states a distance). The peers share its projections; peers of
    different widths get one each.

    The code adds 1e-7 to every probability of a target; this is not needed here, since the divergence is computed in log space. The difference is about 1e-6
    nats a class.

    Losses: ``label``, ``distillation``. The method's ensemble is the mean of the peers' logits. Statistics: ``attention`` [B, m],
    the mean weight that each peer receives, and ``attention_entropy`` [B], as a share of log m.

    Raises:
        CoterieError: fewer than two peers, whose attention would be trivial.
    """

    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature", "ramp_up", "detach_target", "reduction")}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 3.0,
        distillation_weight: NonNegative = 1.0,
        ramp_up: Share = 80 / 300,
        detach_target: bool = False,
        reduction: AtLeastOne = 8,
        leader: bool = True,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.peers = group.num_students - leader
        if self.peers < 2:
            raise CoterieError(
                f"okddip mixes the predictions of at least 2 peers{' beside the leader' if leader else ''}, got {self.peers}; "
                f"set network.branches={2 + leader} or more"
            )
        if leader:
            group.leader = self.deployed_student = self.peers
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.ramp_up = ramp_up
        self.detach_target = detach_target
        dims = group.embedding_dims[: self.peers]
        size = max(1, min(dims) // reduction)
        widths = dims[:1] if len(set(dims)) == 1 else dims  # peers of equal width share one projection
        self.queries = nn.ModuleList(nn.Linear(width, size, bias=False) for width in widths)
        self.keys = nn.ModuleList(nn.Linear(width, size, bias=False) for width in widths)
        if detach_target:
            self.queries.requires_grad_(False)
            self.keys.requires_grad_(False)

    def attention(self, output: GroupOutput) -> Tensor:
        """Weight of peer b in the target of peer a, float32 [B, a, b], summing to 1 over b."""
        embeddings = output.embeddings[: self.peers]

        def project(layers: nn.ModuleList) -> Tensor:
            each = [layers[number % len(layers)](embedding) for number, embedding in enumerate(embeddings)]
            return torch.stack(each, dim=1)

        return torch.softmax(matmul(project(self.queries), project(self.keys).transpose(1, 2)), dim=-1)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        logits = output.logits
        peers = logits[: self.peers].float()
        soft_targets = einsum("sab,bsk->ask", self.attention(output), peers)
        mean = peers.mean(0)
        if self.detach_target:
            soft_targets, mean = soft_targets.detach(), mean.detach()
        divergence = kl_divergence(peers, soft_targets, self.temperature).sum()
        if len(logits) > self.peers:
            divergence = divergence + kl_divergence(logits[-1], mean, self.temperature)
        weight = self.distillation_weight * self.ramp(progress, self.ramp_up)
        return {**self.supervision(logits, inputs, targets), "distillation": weight * divergence}

    def predict(self, inputs: Inputs) -> Predictions:
        output = self.group(inputs)
        attention = self.attention(output)
        entropy = torch.special.entr(attention).sum(-1).mean(-1) / math.log(self.peers)
        statistics = {"attention": attention.mean(1), "attention_entropy": entropy}
        ensemble = output.logits[: self.peers].float().mean(0)
        return Predictions(output.logits, ensemble, output.logits[self.deployed_student], statistics)
