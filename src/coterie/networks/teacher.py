"""Teachers: whole networks that are frozen. What they say of a batch, in the images that they expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.nested import Inputs, batch_size, concatenated
from coterie.errors import CoterieError
from coterie.networks.cutting import whole
from coterie.networks.initialization import is_lazy
from coterie.networks.recording import main_output
from coterie.networks.taps import stage_taps
from coterie.networks.tracing import quiet_eval


class TeacherOutput(NamedTuple):
    """What a teacher returns for a batch, without gradients.

    Attributes:
        logits: [B, K].
        embedding: the classifier's input, [B, d].
        feature_map: the last map before pooling, [B, C, H, W] or [B, N, C].
        taps: outputs of the modules that were asked for.
    """

    logits: Tensor
    embedding: Tensor
    feature_map: Tensor
    taps: tuple[Tensor, ...]


class Statistics(NamedTuple):
    """Mean and standard deviation with which an image's channels are normalised, of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class _LogitsOnly(nn.Module):
    """A network that could not be traced: its logits, and nothing for its features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits: Tensor = main_output(self.network(inputs))
        return logits, logits.new_empty(0), logits.new_empty(0)


def _require_logits(network: nn.Module, example: Tensor) -> None:
    """One look, so that what fails in a step later is not taken for bad input."""
    try:
        with torch.no_grad():
            logits = main_output(network(example))
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CoterieError(f"the teacher does not take images {list(example.shape[1:])}: {first}") from None
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise CoterieError(f"the teacher returns {type(logits).__name__}; expected logits [B, K]")


class Teacher(nn.Module):
    """A frozen network: eval mode even under ``train()``, no gradients, nothing of it in a checkpoint or an optimizer.

    The network is not edited; its maps are read through a graph of it, so a compiled step holds no hooks.

    Args:
        network: any network that returns logits; its features can be compared where ``torch.fx`` can trace it through the ancestors of its classifier
            and of the taps.
        example: a batch of the students' inputs.
        taps: module paths whose outputs are returned besides; ``stages``: the ends of its stages.
        size: (height, width) of the images it expects; None: as they come. They are resized on the device otherwise.
        statistics: of its inputs, with ``student_statistics`` those of the students'; None: the same.
        name: for messages and the summary.
        in_parts: the network returns (logits, embedding, feature map) itself, as a group's branch does, and is not traced.
        class_order: which of its logits is that of each of the students' classes; None: they are in the same order.

    Attributes:
        num_classes, embedding_dim, feature_shape, tap_shapes, tap_names: its dimensions.
        hides: why nothing but its logits is known; empty where its features are.

    Raises:
        CoterieError: a network that does not take the images, or returns something else than logits.
    """

    factor: Tensor | None
    shift: Tensor | None
    class_order: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        example: Inputs,
        *,
        taps: Sequence[str] | Literal["stages"] = "stages",
        size: tuple[int, int] | None = None,
        statistics: Statistics | None = None,
        student_statistics: Statistics | None = None,
        name: str = "",
        in_parts: bool = False,
        class_order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.name = name or type(network).__name__
        if is_lazy(network):
            raise CoterieError(f"the teacher {self.name!r} has lazy layers without values: it was never trained")
        self.size = size if size is not None and tuple(example.shape[2:]) != tuple(size) else None
        factor, shift = _adaptation(student_statistics, statistics)
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)
        self.register_buffer("class_order", None if class_order is None else torch.tensor(class_order))
        self.tap_names: tuple[str, ...] = ()
        self.hides = ""
        network.eval()
        if in_parts:
            self.body = network
        else:
            try:
                self.tap_names = tuple(stage_taps(network) if taps == "stages" else taps)
                self.body = whole(network, self._prepared(example), self.tap_names)
            except CoterieError as error:
                if taps and taps != "stages":  # what was asked for by name is missed
                    raise
                _require_logits(network, self._prepared(example))
                self.tap_names, self.hides, self.body = (), str(error).splitlines()[0], _LogitsOnly(network)
        self.requires_grad_(False)
        with quiet_eval(self):
            logits, embedding, feature_map, tapped = self(example)
        self.num_classes = int(logits.shape[1])
        self.embedding_dim = 0 if self.hides else int(embedding.shape[1])
        self.feature_shape = tuple(int(side) for side in feature_map.shape[1:])
        self.tap_shapes = tuple(tuple(int(side) for side in tap.shape[1:]) for tap in tapped)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode: the statistics of its BatchNorm layers are part of what it knows."""
        return super().train(False)

    def __deepcopy__(self, memory: dict[int, Any]) -> Teacher:
        """Itself: a frozen network need not be held twice (by a moving average, say)."""
        return self

    def _prepared(self, inputs: Inputs) -> Inputs:
        """The images as the teacher was trained on them."""
        if self.factor is not None and self.shift is not None:
            inputs = inputs * self.factor + self.shift
        if self.size is not None:
            inputs = F.interpolate(inputs, self.size, mode="bilinear", antialias=True, align_corners=False)
        return inputs

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> TeacherOutput:
        """Run it on the students' batch: images [B, C, H, W], or what the task's networks take."""
        output = self.body(self._prepared(inputs))
        logits = output[0] if self.class_order is None else output[0].index_select(1, self.class_order)
        return TeacherOutput(logits, output[1], output[2], tuple(output[3]) if len(output) == 4 else ())


def _adaptation(students: Statistics | None, teachers: Statistics | None) -> tuple[Tensor | None, Tensor | None]:
    """Factor and shift from the students' normalised pixels to the teacher's, [1, C, 1, 1]; None where they are alike."""
    if students is None or teachers is None or students == teachers:
        return None, None
    own_mean, own_std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in students)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in teachers)
    return (own_std / std).float(), ((own_mean - mean) / std).float()


class Teachers(nn.Module):
    """One or several teachers with the same classes.

    Where the training samples look the same every epoch, their logits can be computed once: :meth:`cache_logits` keeps them, and between
    :meth:`use_cached` and :meth:`stop_using_cached` the teachers answer from the cache, with logits only.

    Args:
        teachers: at least one.

    Raises:
        CoterieError: teachers with different numbers of classes.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        super().__init__()
        counts = {teacher.num_classes for teacher in teachers}
        if len(counts) != 1:
            raise CoterieError(f"the teachers have {sorted(counts)} classes; they need the same ones")
        self.members = nn.ModuleList(teachers)
        self.num_classes = counts.pop()
        self._cache: Tensor | None = None  # [m, N, K]
        self._buffer: Tensor | None = None  # [m, B, K], where a recorded step reads the batch's logits
        self._cached_batch: Tensor | None = None  # of the present batch

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, number: int) -> Teacher:
        member = self.members[number]
        assert isinstance(member, Teacher)
        return member

    def each(self) -> list[Teacher]:
        """The teachers in order."""
        return [self[number] for number in range(len(self))]

    def __deepcopy__(self, memory: dict[int, Any]) -> Teachers:
        """Itself, see :class:`Teacher`."""
        return self

    def enlargement(self, inputs: Inputs) -> int:
        """How many times as large as these images the largest ones are that a teacher wants, in pixels, at least 1."""
        wanted = [each.size[0] * each.size[1] for each in self.each() if each.size is not None]
        return max(1, max(wanted, default=0) // (inputs.shape[-1] * inputs.shape[-2])) if wanted else 1

    def cache_logits(self, logits: Tensor) -> None:
        """Keep the logits of all training samples, [m, N, K]; a recorded step goes on reading where it read before."""
        self._cache = logits
        self.stop_using_cached()

    def use_cached(self, indices: Tensor) -> None:
        """The next batch holds the samples of these numbers [B]; without a cache, that changes nothing."""
        if self._cache is None:
            return
        numbers = indices.to(self._cache.device, non_blocking=True)
        if self._buffer is not None and self._buffer.shape[1] == len(numbers):
            self._cached_batch = torch.index_select(self._cache, 1, numbers, out=self._buffer)
        else:
            self._cached_batch = self._cache.index_select(1, numbers)
            self._buffer = self._cached_batch if self._buffer is None else self._buffer

    def stop_using_cached(self) -> None:
        """Compute logits again; the cache stays."""
        self._cached_batch = None

    @property
    def answer_from_cache(self) -> bool:
        """Whether the next batch's logits are read from the cache."""
        return self._cached_batch is not None

    def logits(self, inputs: Inputs) -> Tensor:
        """Every teacher's logits, [m, B, K]; of several views, which a list holds, [m, n, B, K]: a teacher sees what the student sees."""
        if not isinstance(inputs, list):
            return torch.stack([output.logits for output in self(inputs)])
        logits = torch.stack([output.logits for output in self(concatenated(inputs))])
        return logits.unflatten(1, (len(inputs), -1)) if len(inputs) > 1 else logits

    def forward(self, inputs: Inputs) -> tuple[TeacherOutput, ...]:
        """Every teacher's output for one batch, or for several views of one behind one another."""
        if self._cached_batch is None:
            return tuple(member(inputs) for member in self.members)
        nothing = self._cached_batch.new_empty(0)
        views = batch_size(inputs) // self._cached_batch.shape[1]
        return tuple(TeacherOutput(logits.repeat(views, 1), nothing, nothing, ()) for logits in self._cached_batch)
