"""Teachers: frozen networks, with inputs adapted to the size and normalisation that they expect."""

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
    """A teacher's output for a batch, without gradients.

    Attributes:
        logits: [B, K].
        embedding: the classifier's input, [B, d].
        feature_map: the last map before pooling, [B, C, H, W] or [B, N, C].
        taps: outputs of the requested modules.
    """

    logits: Tensor
    embedding: Tensor
    feature_map: Tensor
    taps: tuple[Tensor, ...]


class Statistics(NamedTuple):
    """Mean and standard deviation for normalising an image's channels, with pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class _LogitsOnly(nn.Module):
    """A network that could not be traced: returns its logits, and empty features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits: Tensor = main_output(self.network(inputs))
        return logits, logits.new_empty(0), logits.new_empty(0)


def _require_logits(network: nn.Module, example: Tensor) -> None:
    """Runs the network once, so that failures in a later step are not mistaken for wrong inputs."""
    try:
        with torch.no_grad():
            logits = main_output(network(example))
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CoterieError(f"the teacher does not take images {list(example.shape[1:])}: {first}") from None
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise CoterieError(f"the teacher returns {type(logits).__name__}; expected logits [B, K]")


class Teacher(nn.Module):
    """A frozen network: in eval mode even under ``train()``, without gradients, and not part of checkpoints or optimizers.

    The network is not edited. Its maps are read through a traced graph, so a compiled step contains no hooks.

    Args:
        network: any network that returns logits; its features are available if ``torch.fx`` can trace it through the ancestors of its classifier and of the
            taps.
        example: a batch of the students' inputs.
        taps: module paths whose outputs are also returned; ``stages``: the ends of its stages.
        size: (height, width) of the images it expects; they are resized on the device. None: no resizing.
        statistics: normalisation of its inputs; ``student_statistics`` is that of the students' inputs. None: the same.
        name: name in messages and the summary.
        in_parts: whether the network itself returns (logits, embedding, feature map), like a group's branch, and is not traced.
        class_order: index of its logit for each of the students' classes; None: the same order.

    Attributes:
        num_classes, embedding_dim, feature_shape, tap_shapes, tap_names: its dimensions.
        hides: why only its logits are available; empty if its features are too.

    Raises:
        CoterieError: a network that does not accept the images, or does not return logits.
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
                if taps and taps != "stages":  # taps requested by name are missing
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
        """Stays in eval mode, so that BatchNorm uses its trained statistics."""
        return super().train(False)

    def __deepcopy__(self, memory: dict[int, Any]) -> Teacher:
        """Returns itself: a frozen network needs no second copy (by a moving average, for example)."""
        return self

    def _prepared(self, inputs: Inputs) -> Inputs:
        """Returns the images with the teacher's size and normalisation."""
        if self.factor is not None and self.shift is not None:
            inputs = inputs * self.factor + self.shift
        if self.size is not None:
            inputs = F.interpolate(inputs, self.size, mode="bilinear", antialias=True, align_corners=False)
        return inputs

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> TeacherOutput:
        """Runs the teacher on the students' batch: images [B, C, H, W], or the inputs of the task's networks."""
        output = self.body(self._prepared(inputs))
        logits = output[0] if self.class_order is None else output[0].index_select(1, self.class_order)
        return TeacherOutput(logits, output[1], output[2], tuple(output[3]) if len(output) == 4 else ())


def _adaptation(students: Statistics | None, teachers: Statistics | None) -> tuple[Tensor | None, Tensor | None]:
    """Returns factor and shift from the students' normalised pixels to the teacher's, [1, C, 1, 1]; None if they are equal."""
    if students is None or teachers is None or students == teachers:
        return None, None
    own_mean, own_std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in students)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in teachers)
    return (own_std / std).float(), ((own_mean - mean) / std).float()


class Teachers(nn.Module):
    """One or several teachers with the same classes.

    If training samples are the same in every epoch, their logits can be computed once: :meth:`cache_logits` stores them, and between :meth:`use_cached` and
    :meth:`stop_using_cached` the teachers return cached logits only.

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
        self._buffer: Tensor | None = None  # [m, B, K], from which a captured step reads the batch's logits
        self._cached_batch: Tensor | None = None  # of the current batch

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
        """Returns itself, see :class:`Teacher`."""
        return self

    def enlargement(self, inputs: Inputs) -> int:
        """Returns how many times more pixels the largest teacher input has than these images, at least 1."""
        wanted = [each.size[0] * each.size[1] for each in self.each() if each.size is not None]
        return max(1, max(wanted, default=0) // (inputs.shape[-1] * inputs.shape[-2])) if wanted else 1

    def cache_logits(self, logits: Tensor) -> None:
        """Stores the logits of all training samples, [m, N, K]. A captured step continues to read from the same buffer."""
        self._cache = logits
        self.stop_using_cached()

    def use_cached(self, indices: Tensor) -> None:
        """Announces that the next batch holds the samples of these indices [B]; no effect without a cache."""
        if self._cache is None:
            return
        numbers = indices.to(self._cache.device, non_blocking=True)
        if self._buffer is not None and self._buffer.shape[1] == len(numbers):
            self._cached_batch = torch.index_select(self._cache, 1, numbers, out=self._buffer)
        else:
            self._cached_batch = self._cache.index_select(1, numbers)
            self._buffer = self._cached_batch if self._buffer is None else self._buffer

    def stop_using_cached(self) -> None:
        """Computes logits again from now on; the cache is kept."""
        self._cached_batch = None

    @property
    def answer_from_cache(self) -> bool:
        """Whether the next batch's logits come from the cache."""
        return self._cached_batch is not None

    def logits(self, inputs: Inputs) -> Tensor:
        """Returns every teacher's logits, [m, B, K]; for a list of several views [m, n, B, K], since a teacher sees each student's view."""
        if not isinstance(inputs, list):
            return torch.stack([output.logits for output in self(inputs)])
        logits = torch.stack([output.logits for output in self(concatenated(inputs))])
        return logits.unflatten(1, (len(inputs), -1)) if len(inputs) > 1 else logits

    def forward(self, inputs: Inputs) -> tuple[TeacherOutput, ...]:
        """Returns every teacher's output for one batch, or for several concatenated views of one."""
        if self._cached_batch is None:
            return tuple(member(inputs) for member in self.members)
        nothing = self._cached_batch.new_empty(0)
        views = batch_size(inputs) // self._cached_batch.shape[1]
        return tuple(TeacherOutput(logits.repeat(views, 1), nothing, nothing, ()) for logits in self._cached_batch)
