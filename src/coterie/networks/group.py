"""Groups of students that are trained together: branches on a shared trunk, or peers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs, batch_size, concatenated
from coterie.errors import CoterieError
from coterie.losses.chunked import Compare
from coterie.networks.cutting import Parts, input_size, say_left_out
from coterie.networks.initialization import materialised
from coterie.networks.pieces import Assembled, AverageGradient, body_of
from coterie.networks.recomputation import recomputed
from coterie.networks.taps import stage_taps
from coterie.networks.teacher import Teachers
from coterie.networks.tracing import quiet_eval, trace
from coterie.randomness import derive_seed


class GroupOutput(NamedTuple):
    """A group's output for a batch.

    Attributes:
        logits: [n, B, K].
        embeddings: the classifiers' inputs, n tensors [B, d].
        feature_maps: the last maps before pooling, n tensors [B, C, H, W] or [B, N, C].
        trunk_maps: the trunk's output, one map for each different input: one, n if each student has its own view, none without a shared trunk. If several
            values cross the split, it is the largest.
        taps: outputs of the requested modules, n tuples of maps [B, C, H, W] or [B, N, C].
    """

    logits: Tensor
    embeddings: tuple[Tensor, ...]
    feature_maps: tuple[Tensor, ...]
    trunk_maps: tuple[Tensor, ...]
    taps: tuple[tuple[Tensor, ...], ...]


class StudentGroup(nn.Module):
    """n students, each of which is a complete network: the trunk, if there is one, and a branch.

    Use :func:`coterie.branch` or :meth:`of` to build one. The constructor is for networks that cannot be traced.

    Args:
        trunk: the shared part; its output (a tensor or a tuple) is each branch's input. None: nothing is shared.
        branches: one module for each student; each returns (logits [B, K], embedding [B, d], feature map [B, C, H, W] or [B, N, C]).
        trunk_gradient: ``sum``: the branches' gradients are summed at the split; ``mean``: they are averaged.
        example: a batch for measuring the dimensions, in eval mode and without gradients.
        classifiers: path of each branch's last layer; None: its last linear layer.
        templates: the plain network of each student, which :meth:`student` copies and fills.
        split_point: the module before which a network was split, for display.
        channels_last_maps: whether 4-d values inside the networks are channels-last (Swin).
        tap_names: module paths of each branch's fourth result, a tuple of further maps; None: branches return three.

    Attributes:
        num_students, num_classes, embedding_dims, feature_shapes: dimensions; the latter two have one entry for each student.
        trunk_shape: (C, H, W) or (N, C) of the trunk's map; None: nothing is shared, or no map crosses the split.
        tap_shapes: shapes of each student's taps, in the order of ``tap_names``.
        leader: number of the student that a method designates for deployment; None: all are equal.

    Raises:
        CoterieError: a branch that does not return the three tensors, or students with different classes.
    """

    def __init__(
        self,
        trunk: nn.Module | None,
        branches: Sequence[nn.Module],
        *,
        trunk_gradient: Literal["sum", "mean"] = "sum",
        example: Inputs,
        classifiers: Sequence[str] | None = None,
        templates: Sequence[nn.Module] | None = None,
        split_point: str | None = None,
        channels_last_maps: bool = False,
        tap_names: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        if not branches:
            raise CoterieError("a group needs at least one branch")
        self.trunk = trunk
        self.branches = nn.ModuleList(branches)
        self.trunk_gradient = trunk_gradient
        self.split_point = split_point
        self.channels_last_maps = channels_last_maps
        self.tap_names = tuple(tuple(names) for names in tap_names or [()] * len(branches))
        self.leader: int | None = None
        self.checkpoint_branches = False  # activation checkpointing of the branches
        self._require_own_parameters()
        self._classifiers = list(classifiers) if classifiers else [_last_linear(each) for each in branches]
        # In a tuple, so that the templates are neither trained, moved nor saved.
        self._templates = tuple(templates) if templates else None
        with quiet_eval(self):
            values = self.branch_inputs(example)
            outputs = self._run(values)
            shared = self._trunk_map(values[0])
        shapes = {tuple(output[0].shape[1:]) for output in outputs}
        if len(shapes) > 1:
            raise CoterieError(f"the students' logits differ in shape: {sorted(shapes)}; they need the same classes")
        self.num_classes = int(outputs[0][0].shape[1])
        self.embedding_dims = tuple(int(output[1].shape[1]) for output in outputs)
        self.feature_shapes = tuple(tuple(int(size) for size in output[2].shape[1:]) for output in outputs)
        self.tap_shapes = tuple(
            tuple(tuple(int(size) for size in tap.shape[1:]) for tap in _taps(output)) for output in outputs
        )
        self.trunk_shape = tuple(int(size) for size in shared.shape[1:]) if shared is not None else None

    @classmethod
    def of(
        cls,
        networks: Sequence[nn.Module],
        example: Tensor | None = None,
        taps: Sequence[str] | Literal["stages"] = (),
    ) -> StudentGroup:
        """Builds a group of peers, of the same or different architectures, with nothing shared.

        Args:
            networks: whole networks with the same number of classes; the group takes ownership.
            example: a batch of inputs to measure shapes with; None: zeros of the first network's input size.
            taps: module paths whose outputs are also returned, or ``stages``.

        Raises:
            CoterieError: a network that cannot be traced, or networks with different classes.
        """
        if example is None:
            example = torch.zeros(2, *input_size(networks[0]))
        for number, network in enumerate(networks):
            materialised(network, example, derive_seed(0, "lazy", number))
        asked = [stage_taps(network) if taps == "stages" else taps for network in networks]
        traced = [trace(network, None, example, each) for network, each in zip(networks, asked, strict=True)]
        for each in traced:
            say_left_out(each)
        templates = [copy.deepcopy(network) for network in networks]
        return cls(
            None,
            [Parts(each, None).branch(each.network) for each in traced],
            example=example,
            classifiers=[each.classifier for each in traced],
            templates=templates,
            tap_names=[each.taps for each in traced],
        )

    @property
    def num_students(self) -> int:
        return len(self.branches)

    @property
    def classifiers(self) -> tuple[nn.Module, ...]:
        """Each student's last layer."""
        return tuple(
            body_of(each).get_submodule(name) for each, name in zip(self.branches, self._classifiers, strict=True)
        )

    def _require_own_parameters(self) -> None:
        owners: dict[int, int] = {}
        for number, each in enumerate(self.branches):
            for name, parameter in each.named_parameters():
                if owners.setdefault(id(parameter), number) != number:
                    raise CoterieError(
                        f"branches {owners[id(parameter)]} and {number} share the parameter {name!r}: give each a module of its own"
                    )

    def branch_inputs(self, inputs: Inputs) -> list[tuple[Any, ...]]:
        """Returns the arguments of each branch: the trunk's output (computed once), or the inputs if nothing is shared.

        Args:
            inputs: as in :meth:`forward`.
        """
        students = len(self.branches)
        if not isinstance(inputs, list):
            return [self._shared(inputs)] * students
        if len(inputs) != students:
            raise CoterieError(
                f"{len(inputs)} views for {students} students: expected one for each, or one batch for all"
            )
        return self._shared_views(inputs)

    def _run(self, values: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Returns every branch's (logits, embedding, feature map), and its taps if there are any."""
        outputs = []
        for each, value in zip(self.branches, values, strict=True):
            if self.checkpoint_branches and self.training and torch.is_grad_enabled():
                output = recomputed(each, value)
            else:
                output = each(*value)
            if not (isinstance(output, tuple) and len(output) in (3, 4)):
                raise CoterieError("a branch must return (logits, embedding, feature_map)")
            outputs.append(output)
        return outputs

    def _trunk_map(self, values: tuple[Any, ...]) -> Tensor | None:
        """Returns the largest map among the values that cross the split, in canonical axes."""
        maps = [value for value in values if isinstance(value, Tensor) and value.ndim in (3, 4)]
        if self.trunk is None or not maps:
            return None
        largest = maps[0]
        for value in maps[1:]:
            largest = value if value.numel() > largest.numel() else largest
        return largest.permute(0, 3, 1, 2) if self.channels_last_maps and largest.ndim == 4 else largest

    def _shared(self, inputs: Inputs) -> tuple[Any, ...]:
        """Returns the trunk's output for a batch, as the tuple of values that cross the split."""
        if self.trunk is None:
            return (inputs,)
        result = self.trunk(inputs)
        values = result if isinstance(result, tuple) else (result,)
        if self.trunk_gradient == "mean" and len(self.branches) > 1:
            values = tuple(
                AverageGradient.apply(value, len(self.branches))
                if isinstance(value, Tensor) and value.is_floating_point()
                else value
                for value in values
            )
        return values

    def _shared_views(self, views: list[Inputs]) -> list[tuple[Any, ...]]:
        """Runs the trunk once on all views together and splits the result by view."""
        if self.trunk is None:
            return [(view,) for view in views]
        sizes = [batch_size(view) for view in views]
        values = self._shared(concatenated(views))
        if any(not isinstance(value, Tensor) or value.ndim == 0 or len(value) != sum(sizes) for value in values):
            return [self._shared(view) for view in views]  # a non-batched value crosses the split
        return list(zip(*(value.split(sizes) for value in values), strict=True))

    def forward(self, inputs: Inputs) -> GroupOutput:
        """Runs every student.

        Args:
            inputs: one batch for all, any nested structure of tensors [B, ...], or a list with one such view for each student.
        """
        values = self.branch_inputs(inputs)
        outputs = self._run(values)
        logits, embeddings, feature_maps = zip(*(output[:3] for output in outputs), strict=True)
        views = values if isinstance(inputs, list) else values[:1]
        maps = [self._trunk_map(value) for value in views]
        return GroupOutput(
            torch.stack(logits),
            embeddings,
            feature_maps,
            tuple(each for each in maps if each is not None),
            tuple(_taps(output) for output in outputs),
        )

    def terms_in_parts(
        self,
        compare: Compare,
        inputs: Inputs,
        targets: Tensor,
        teachers: Teachers | None,
        parameters: Callable[[], Sequence[Tensor]],
    ) -> dict[str, Tensor] | None:
        """Returns the terms of a comparison of logits, without the logits of the whole batch. None, as here: the caller computes all logits.

        Groups whose logits would be very large override this.

        Args:
            compare: takes students' logits [n, c, K], teachers' [m, c, K] or None, and targets [c], of parts of the batch; returns 0-d means over them.
            inputs, targets: the batch.
            teachers: the teachers; None: no teachers.
            parameters: returns the trainable parameters that ``compare`` uses.
        """
        return None

    def require_student(self, number: int) -> None:
        """Checks that a student of this number exists.

        Raises:
            CoterieError: there is no such student.
        """
        if not 0 <= number < self.num_students:
            raise CoterieError(f"no student {number}: the group has students 0 to {self.num_students - 1}")

    def student(self, number: int) -> nn.Module:
        """Returns student ``number`` as a plain network of its original class, a copy that shares nothing with the group.

        Raises:
            CoterieError: there is no such student.
        """
        self.require_student(number)
        parts = [part for part in (self.trunk, self.branches[number]) if part is not None]
        if self._templates is None:
            assembled = Assembled(copy.deepcopy(self.trunk), copy.deepcopy(self.branches[number]))
            return assembled.train(self.training)
        network = copy.deepcopy(self._templates[number])
        trained = {name: value for part in parts for name, value in body_of(part).state_dict().items()}
        state = network.state_dict(keep_vars=True)
        # A module may have two names; the graph uses one of them.
        names: dict[int, list[str]] = {}
        for name, value in state.items():
            names.setdefault(id(value), []).append(name)
        for aliases in names.values():
            known = [name for name in aliases if name in trained]
            trained.update({name: trained[known[0]] for name in aliases if known})
        # Modules that the network never uses (a disabled head) are in no graph and keep their values.
        unused = {name: value.detach() for name, value in state.items() if name not in trained}
        network.load_state_dict({**trained, **unused}, strict=True)
        device = next(iter(trained.values())).device
        return network.to(device).train(self.training)


def _taps(output: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(output[3]) if len(output) == 4 else ()


def _last_linear(module: nn.Module) -> str:
    names = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    return names[-1] if names else ""
