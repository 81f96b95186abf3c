"""After RL-KD: Reinforced Multi-Teacher Selection (Yuan et al., AAAI 2021, arXiv 2012.06048)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses import kl_divergence
from coterie.losses.label import one_hot
from coterie.losses.precision import einsum
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import TaughtMethod, require_classes, single_view
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers

Reward = Literal["label", "label_and_distillation", "validation", "instance", "improvement"]
LARGEST_LOSS = 10.0  # upper limit of the cross-entropies in the state, which are unbounded


def _mean_over_processes(values: Tensor) -> Tensor:
    """Mean over processes: parameters that are updated without the optimizer must stay equal in all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


class RLKD(TaughtMethod):
    r"""A policy selects, for every sample, the teachers whose mean prediction the student learns from; REINFORCE trains the policy.

    With state :math:`s_{ik}` (the student's embedding, teacher k's probabilities and its cross-entropy; detached):

    .. math:: \pi(a_{ik} = 1) = \sigma(w_k \cdot s_{ik} + b_k), \qquad L = \alpha\, CE(z_s, y) + (1 - \alpha) T^2 KL(\bar p_{selected}^T \| p_s^T)

    A reconstruction: the state, the logistic policy, the policy gradient and the existence of three rewards are known in outline; formulas and constants are
    recalled or ours, and can be set by arguments.

    Args:
        group: one student.
        teachers: several.
        selection: ``policy``; or a control: ``uniform`` (all teachers), ``argmin_ce`` (the teacher with the smallest cross-entropy on the sample),
            ``softmax_ce`` (all, weighted by the softmax of the negative cross-entropy). The state contains the teachers' label losses, so ``argmin_ce`` is the
            baseline of a policy.
        reward: ``label``: minus the batch's CE; ``label_and_distillation``: minus both; ``validation``: the first, plus the last
            validation accuracy (the three published, as recalled); ``instance``: minus the sample's CE; ``improvement`` (ours, default): how much this update
            lowered the sample's CE, which gives each sample its own credit (one more forward pass).
        label_weight: α, 0.5 (ours).
        temperature: T, 4 (ours).
        policy_learning_rate: learning rate of plain gradient ascent, 0.1 (ours; a numeric pilot was stable from 0.05 to 1 with ``improvement``).
        warm_up: share of training in which all teachers are used and the policy is not trained, 0.1 (as published, the student is first trained this way).
        shuffle_state: a control: the policy sees another sample's state, so it can do no better than a fixed choice.

    With several processes, the policy's update is averaged over them. With ``training.accumulate``, the policy learns from the last batch of a step only.

    A sample for which no teacher was selected learns from all of them. The reward's baseline is its mean over the batch; for the three batch-wide rewards it is
    the running mean.

    Losses: ``label``, ``distillation``.

    Raises:
        CoterieError: mixed labels.
    """

    reads_teacher_features: ClassVar[bool] = False
    expected_reward: Tensor
    validation_accuracy: Tensor

    unused: ClassVar[Unused] = {
        "selection!=policy": ("reward", "policy_learning_rate", "warm_up", "shuffle_state"),
        "policy_learning_rate=0": ("reward", "shuffle_state"),
        "warm_up=1": ("reward", "policy_learning_rate", "shuffle_state"),
        "label_weight=1": (
            "selection",
            "reward",
            "temperature",
            "policy_learning_rate",
            "warm_up",
            "shuffle_state",
        ),
    }

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        selection: Literal["policy", "uniform", "argmin_ce", "softmax_ce"] = "policy",
        reward: Reward = "improvement",
        label_weight: Share = 0.5,
        temperature: Positive = 4.0,
        policy_learning_rate: NonNegative = 0.1,
        warm_up: Share = 0.1,
        shuffle_state: bool = False,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, label_loss)
        self.selection = selection
        self.reward: Reward = reward
        self.label_weight = label_weight
        self.temperature = temperature
        self.policy_learning_rate = policy_learning_rate
        self.warm_up = warm_up
        self.shuffle_state = shuffle_state
        count = len(self.teachers)
        state = group.embedding_dims[0] + group.num_classes + 1
        # The policy is updated by its own gradient ascent after a step, not by the optimizer.
        self.policy_weight = nn.Parameter(torch.zeros(count, state), requires_grad=False)
        self.policy_bias = nn.Parameter(torch.zeros(count), requires_grad=False)
        self.register_buffer("expected_reward", torch.zeros(()))
        self.register_buffer("validation_accuracy", torch.zeros(()))
        self._episode: tuple[Tensor, ...] = ()  # the policy's states and actions of the last batch

    @property
    def needs_validation(self) -> bool:
        return self.selection == "policy" and self.reward == "validation"

    def selected(self, state: Tensor, losses: Tensor, progress: Progress | None) -> tuple[Tensor, Tensor]:
        """Returns the teachers' weights [m, B], which sum to 1 over teachers, and the actions."""
        uniform = torch.full_like(losses, 1.0 / len(losses))
        if self.selection == "uniform":
            return uniform, uniform
        if self.selection == "argmin_ce":
            chosen = one_hot(losses.argmin(0), len(losses)).T
            return chosen, chosen
        if self.selection == "softmax_ce":
            weights = torch.softmax(-losses, 0)
            return weights, weights
        actions = (torch.rand_like(losses) < self._probabilities(state)).float()
        count = actions.sum(0, keepdim=True)
        weights = torch.where(count > 0, actions / count.clamp(min=1), uniform)
        if progress is not None and self.warm_up > 0:
            weights = torch.where(progress.fraction < self.warm_up, uniform, weights)
        return weights, actions

    def _probabilities(self, state: Tensor) -> Tensor:
        """Probabilities of selecting each teacher, [m, B], from states [m, B, d]."""
        return torch.sigmoid(einsum("mbd,md->mb", state, self.policy_weight) + self.policy_bias.float()[:, None])

    def _seen(self, teachers: Tensor, embedding: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the policy's states [m, B, d] and the teachers' cross-entropies [m, B], from their logits [m, B, K] and the student's embedding [B, e]."""
        truth = targets.expand(len(teachers), -1)
        losses = F.cross_entropy(teachers.flatten(0, 1), truth.flatten(), reduction="none").view_as(truth)
        unit = F.normalize(embedding.detach().float(), dim=1).expand(len(teachers), -1, -1)
        bounded = losses.clamp(max=LARGEST_LOSS).unsqueeze(-1)
        state = torch.cat([unit, torch.softmax(teachers, -1), bounded], dim=-1)
        return (state.roll(1, 1) if self.shuffle_state else state), losses

    @torch.no_grad()
    def choices(self, inputs: Inputs, targets: Tensor) -> Tensor:
        """Returns the weight of each teacher for each sample of a batch, [m, B], summing to 1 over teachers.

        A policy's selection probabilities are divided by their sum. Needs the teachers, so it is not available in a reloaded run.
        """
        teachers = torch.stack([output.logits for output in self.teacher_outputs(inputs)]).float()
        state, losses = self._seen(teachers, self.group(inputs).embeddings[0], targets)
        if self.selection != "policy":
            return self.selected(state, losses, None)[0]
        probabilities = self._probabilities(state)
        return probabilities / probabilities.sum(0).clamp(min=1e-12)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        require_classes(targets, "rl_kd")
        teachers = torch.stack([output.logits for output in self.teacher_outputs(inputs)]).float()
        output = self.group(inputs)
        logits = output.logits[0]
        state, teacher_losses = self._seen(teachers, output.embeddings[0], targets)
        weights, actions = self.selected(state, teacher_losses, progress)
        softened = torch.softmax(teachers / self.temperature, -1)
        mixed = einsum("mb,mbk->bk", weights, softened).clamp(min=1e-12).log() * self.temperature
        losses = self.supervision(output.logits, inputs, targets, self.label_weight)
        divergence = kl_divergence(logits, mixed, self.temperature)
        losses["distillation"] = (1 - self.label_weight) * divergence
        if self.selection == "policy" and self.training:
            before = F.cross_entropy(logits.detach().float(), targets, reduction="none")
            self._episode = (state, actions, before, divergence.detach(), single_view(inputs), targets)
        return losses

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        if not self._episode:
            return
        # Not cleared: when a captured step is replayed, these same tensors hold the next batch's values.
        state, actions, before, divergence, inputs, targets = self._episode
        reward = self._rewards(before, divergence, inputs, targets)
        # d log pi(a) / d score = a - p for a logistic policy.
        slope = (actions - self._probabilities(state)) * reward
        resting = (progress.fraction < self.warm_up).float() if self.warm_up > 0 else 0.0
        rate = self.policy_learning_rate * (1.0 - resting) / len(before)
        ascent = torch.cat([torch.einsum("mb,mbd->md", slope, state), slope.sum(1, keepdim=True)], dim=1) * rate
        ascent = _mean_over_processes(ascent)
        self.policy_weight.add_(ascent[:, :-1])
        self.policy_bias.add_(ascent[:, -1])

    def _rewards(self, before: Tensor, divergence: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Each sample's reward minus its baseline, [B]."""
        if self.reward in {"instance", "improvement"}:
            values = -before
            if self.reward == "improvement":
                after = F.cross_entropy(self._logits_again(inputs), targets, reduction="none")
                values = before - after
            spread = values.std().clamp(min=1e-6) if len(values) > 1 else 1.0
            return (values - values.mean()) / spread
        value = -before.mean()
        if self.reward == "label_and_distillation":
            value = value - divergence
        elif self.reward == "validation":
            value = value + self.validation_accuracy
        advantage = _mean_over_processes(value) - self.expected_reward
        self.expected_reward += 0.1 * advantage
        return advantage.expand(len(before))

    def _logits_again(self, inputs: Inputs) -> Tensor:
        """Returns the updated student's logits of the same batch, in train mode; BatchNorm's running statistics are restored afterwards.

        Dropout and stochastic depth repeat the first pass's draws, provided that the generator was seeded for the step (as coterie's loop does) and the step is
        not compiled. Otherwise the reward would contain the noise of another draw.
        """
        kept = [buffer.clone() for buffer in self.group.buffers()]
        device = self.expected_reward.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(torch.initial_seed())
            logits = self.group(inputs).logits[0].float()
        for buffer, value in zip(self.group.buffers(), kept, strict=True):
            buffer.copy_(value)
        return logits

    def after_validation(self, logits: Tensor, targets: Tensor) -> None:
        self.validation_accuracy.fill_((logits[0].argmax(-1) == targets).float().mean())
