"""Measures steps and their parts, data loading, operations and memory of a recipe's group, and of a plain network."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from coterie.benchmark.timing import LEAST_SECONDS, Timing, ceiling, interleaved, seconds, synchronise
from coterie.data.batch import Batch
from coterie.errors import CoterieError
from coterie.methods import find_method
from coterie.methods.options import check_options
from coterie.recipe import Recipe, load_recipe
from coterie.run_folder import RunFolder
from coterie.running.accelerator import build_accelerator
from coterie.running.environment import describe_environment
from coterie.tasks.task import find_task
from coterie.training.display import Display
from coterie.training.loop import Trainer
from coterie.training.memory_format import resolve_memory_format
from coterie.training.teacher_cache import cached_teachers

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Subject:
    """A recipe's trainer with a batch, used for timing only.

    Args:
        recipe: the recipe to measure.
        folder: the trainer's run folder, which is created.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        if recipe.training.shard:
            raise CoterieError("training.shard=true: a benchmark measures one process; leave it out")
        check_options(find_method(recipe.method.name), recipe.method.options)
        self.accelerator = build_accelerator(recipe)
        self.task = find_task(recipe)(recipe, self.accelerator)
        method = self.task.build_method()
        self.recipe = recipe = resolve_memory_format(self.task.recipe, self.task, method, self.accelerator.device)
        display = Display(1, 1, True)
        folder.mkdir()
        self.trainer = Trainer(recipe, self.task, method, self.accelerator, RunFolder(folder), display)
        self.trainer.prepare()
        self.method = self.trainer.method.train()
        self.device = self.accelerator.device
        self.batch: Batch = next(iter(self.task.data.train.epoch(0)))
        self._stream: Iterator[Batch] = iter(())
        self._epoch = 0
        self._gradients: list[tuple[torch.nn.Parameter, Tensor]] = []

    @property
    def images(self) -> int:
        """Number of images in one step."""
        return len(self.batch.targets)

    def step(self) -> None:
        """Runs one step of the training loop, always on the same batch."""
        self.trainer.train_batch(self.batch)

    def next_batch(self) -> Batch:
        """Returns the next batch of the data."""
        batch = next(self._stream, None)
        if batch is None:
            self._epoch += 1
            self._stream = self.task.data.train.epoch(self._epoch)
            batch = next(self._stream)
        return batch

    def step_with_data(self) -> None:
        """Runs one step of the training loop on the next batch."""
        self.trainer.train_batch(self.next_batch())

    def seconds_of_stream(self, call: Callable[[], object], least: float) -> float:
        """Measures the seconds of one ``call``, which takes a batch each time, in a new epoch without its first batches.

        Batches that were prefetched are consumed before the measurement, so that waiting for data is measured.
        """
        self._stream = iter(())
        ahead = self.task.data.train.ahead + 2
        count = max(3, round(least / max(1e-9, seconds(call, ahead, self.device))))
        return seconds(call, count, self.device)

    def forward(self) -> Tensor:
        """Returns the sum of the method's losses."""
        with cached_teachers(self.method, self.batch), self.accelerator.autocast():
            losses = self.trainer.compiled(self.batch.inputs, self.batch.targets, self.trainer.progress)
        return torch.stack(tuple(losses.values())).sum()

    def forward_of_students(self) -> None:
        """Runs the forward pass of the students alone."""
        with self.accelerator.autocast():
            self.method.networks(self._own_views())

    @torch.no_grad()
    def forward_of_teachers(self) -> None:
        """Runs the forward pass of the teachers alone, if there are any."""
        inputs = self.batch.inputs[0] if isinstance(self.batch.inputs, list) else self.batch.inputs
        with cached_teachers(self.method, self.batch), self.accelerator.autocast():
            if self.method.teachers is not None:
                self.method.teachers(inputs)

    def _own_views(self) -> Any:
        inputs = self.batch.inputs
        return inputs[: self.method.num_students] if isinstance(inputs, list) else inputs

    def forward_backward(self) -> None:
        """Computes losses and gradients, and discards them."""
        self.forward().backward()
        self.method.zero_grad(set_to_none=True)

    def optimizer_step(self) -> None:
        """Runs the optimizer alone, on fixed gradients and at a learning rate that is practically zero."""
        if not self._gradients:
            self.forward().backward()
            parameters = self.method.parameters()
            self._gradients = [(each, each.grad) for each in parameters if each.grad is not None]
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = 1e-9
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad(set_to_none=True)

    def bare_step(self) -> None:
        """Runs the minimum of a training step: losses, gradients (from the captured graph if there is one), optimizer."""
        if self.trainer.captured is not None:
            with cached_teachers(self.method, self.batch):
                self.trainer.captured(self.batch.inputs, self.batch.targets)
        else:
            self.forward().backward()
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad(set_to_none=True)

    def operations(self) -> int:
        """Counts the operations of one step's forward and backward pass; a multiply-add counts as two."""
        with FlopCounterMode(display=False) as counter:
            with cached_teachers(self.method, self.batch), self.accelerator.autocast():
                losses = self.method(self.batch.inputs, self.batch.targets, self.trainer.progress)
            torch.stack(tuple(losses.values())).sum().backward()
        self.method.zero_grad(set_to_none=True)
        return int(counter.get_total_flops())

    def peak_bytes(self) -> int:
        """Returns the peak GPU memory of an eager step (replaying a graph allocates nothing); on other devices the peak memory of the process so far."""
        if self.device.type == "cuda":
            captured, self.trainer.captured = self.trainer.captured, None
            torch.cuda.reset_peak_memory_stats(self.device)
            self.step()
            synchronise(self.device)
            self.trainer.captured = captured
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def plain_recipe(recipe: Recipe) -> Recipe:
    """Returns the recipe of the same network alone, trained on the labels, as the reference for a group's cost."""
    tree = recipe.model_dump()
    tree["method"] = {"name": "baseline"}
    name = recipe.network.name
    tree["network"] = {**recipe.network.of_one().model_dump(), "name": name[0] if isinstance(name, list) else name}
    tree["teaching"] = {}
    tree["teacher"], tree["teachers"] = None, []
    return load_recipe(tree)


def measure(
    recipe: Recipe, against: Recipe | None = None, repetitions: int = 7, least: float = LEAST_SECONDS
) -> dict[str, Any]:
    """Measure a recipe's training, and that of another recipe for comparison.

    Args:
        recipe: the group's recipe.
        against: the recipe to compare with; None: the same network alone.
        repetitions: number of rounds; every figure is the median.
        least: minimum seconds for which a call is repeated in a round.

    Returns:
        ``group`` and ``plain`` (``images``, ``students``, ``operations_per_image``, ``step``, ``images_per_second``, ``data_share``: the share of a step's time
        that loading data adds, ...), ``cost_ratio`` (time ratio over operations ratio, of the group to the plain network), ``loop_overhead``, ``ceiling``
        (maximum operations per second, see :func:`~coterie.benchmark.timing.ceiling`), ``machine``.
    """
    if recipe.training.accumulate != 1:
        raise CoterieError("training.accumulate: a benchmark measures steps of one batch; set it to 1")
    with tempfile.TemporaryDirectory() as folder:
        group = Subject(recipe, Path(folder) / "group")
        plain = Subject(against or plain_recipe(recipe), Path(folder) / "plain")
        calls = {
            "group.step": group.step,
            "plain.step": plain.step,
            "group.bare": group.bare_step,
            "group.students": group.forward_of_students,
            "group.teachers": group.forward_of_teachers,
            "group.forward": group.forward,
            "group.forward_backward": group.forward_backward,
            "group.optimizer": group.optimizer_step,
        }
        times = interleaved(calls, group.device, repetitions, least)
        streams = {"data": group.next_batch, "step_with_data": group.step_with_data, "step": group.step}
        measured: dict[str, list[float]] = {name: [] for name in streams}
        for _ in range(repetitions):
            for name, call in streams.items():
                measured[name].append(group.seconds_of_stream(call, least))
        stream = {name: statistics.median(values) for name, values in measured.items()}
        operations = {"group": group.operations(), "plain": plain.operations()}
        most = ceiling(group.device, PRECISIONS[recipe.training.precision])
        return _report(group, plain, times, stream, operations, most, group.peak_bytes())


def _report(
    group: Subject,
    plain: Subject,
    times: Mapping[str, Timing],
    stream: Mapping[str, float],
    operations: Mapping[str, int],
    most: float,
    peak: int,
) -> dict[str, Any]:
    step, bare = times["group.step"].median, times["group.bare"].median
    students, teachers, forward, both, optimizer = (
        times[f"group.{name}"].median for name in ("students", "teachers", "forward", "forward_backward", "optimizer")
    )
    parts = both + optimizer  # eager, also if the step is a captured graph
    ratio = step / times["plain.step"].median
    work = operations["group"] / operations["plain"]
    return {
        "recipe": group.recipe.model_dump(mode="json"),
        "machine": describe_environment(group.device, group.recipe.seed, 1),
        "ceiling": most,
        "group": {
            "students": group.method.num_students,
            "recorded": group.trainer.captured is not None,
            "unrecorded_because": group.trainer.unrecorded,
            "images": group.images,
            "operations_per_image": operations["group"] / group.images,
            "step": times["group.step"]._asdict(),
            "images_per_second": group.images / step,
            "images_per_second_with_data": group.images / stream["step_with_data"],
            "data_images_per_second": group.images / stream["data"],
            "data_share": max(0.0, 1 - stream["step"] / stream["step_with_data"]),
            "share_of_ceiling": operations["group"] / step / most,
            "peak_bytes": peak,
            "shares": {
                "students forward": students / parts,
                "teachers forward": teachers / parts,
                "method forward": max(0.0, forward - students - teachers) / parts,
                "backward": max(0.0, both - forward) / parts,
                "optimizer": optimizer / parts,
            },
        },
        "plain": {
            "method": plain.recipe.method.name,
            "operations_per_image": operations["plain"] / plain.images,
            "step": times["plain.step"]._asdict(),
            "images_per_second": plain.images / times["plain.step"].median,
        },
        "time_ratio": ratio,
        "operations_ratio": work,
        "cost_ratio": ratio / work,
        "loop_overhead": step / bare - 1,
    }
