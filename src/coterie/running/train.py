"""Trains one run from recipe to run folder: the implementation of ``coterie train`` and ``coterie.train``."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from coterie.errors import CoterieError
from coterie.files import write_json, write_text
from coterie.methods.method import Method
from coterie.networks.branching import NetworkSource
from coterie.recipe import Recipe, load_recipe
from coterie.recipe.sections import OWN_DATA, resolved
from coterie.run_folder import RunFolder
from coterie.run_lock import lock
from coterie.run_schema import FinishedSummary, validated
from coterie.running.accelerator import (
    build_accelerator,
    process_group,
    require_trackers,
    several_processes,
    wait_for_all,
)
from coterie.running.announcement import data_lines, laid_out, network_lines, plan_lines
from coterie.running.arguments import sort_arguments
from coterie.running.continuation import (
    OWN_NETWORK,
    continued,
    require_same_data,
    require_same_objects,
    with_absolute_paths,
    with_stored_places,
)
from coterie.running.environment import describe_environment
from coterie.running.notebook import as_html, as_text
from coterie.running.outcome import conclude, is_complete, restore_report
from coterie.running.output import clear, free_name, require_free
from coterie.student import load_student
from coterie.tasks.construction import without_unused
from coterie.tasks.task import Task, find_task
from coterie.training.display import Display
from coterie.training.interruption import Interrupted, Interruption
from coterie.training.loop import Trainer
from coterie.training.memory_format import resolve_memory_format
from coterie.training.sharding import require_shard_settings
from coterie.training.state import restore
from coterie.training.stopping import resolve_selection

FIRST_STAGE = "assistant"  # folder of a first stage's run, inside the run folder


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A finished run. In a notebook it displays its figures, its learning curve and a link to its report.

    Attributes:
        path: the run folder.
        summary: content of summary.json.
    """

    path: Path
    summary: dict[str, Any]
    network: NetworkSource | None = None

    def student(self) -> nn.Module:
        """Returns the deployed student, a plain network on the CPU in eval mode."""
        network = self.network if isinstance(self.network, nn.Module) or self.network is None else self.network()
        return load_student(self.path, network)

    def __repr__(self) -> str:
        return as_text(self.path, self.summary)

    def _repr_html_(self) -> str:
        return as_html(self.path, self.summary)


def train(
    recipe: Recipe | str | Path | dict[str, Any] | None = None,
    *,
    output: str | Path | None = None,
    network: NetworkSource | str | list[str] | dict[str, Any] | None = None,
    data: Any = None,
    teacher: nn.Module | list[nn.Module] | str | Path | dict[str, Any] | None = None,
    resume: bool = False,
    overrides: tuple[str, ...] | list[str] = (),
    quiet: bool = False,
    trust_code: bool = False,
    **sections: Any,
) -> TrainResult:
    """Train a group of students and write a run folder.

    Args:
        recipe: a recipe, a mapping, the path of a YAML file, or None for the defaults (the digits demo).
        output: the run folder; None: ``runs/<data>_<network>_<method>_seed<seed>``, with a number if that is taken.
        network: a timm name or a section of the recipe; or a module, or a callable that builds one. Prefer a callable: every additional
            branch is then taken from a newly built network.
        data: a data set's name, a folder or a section of the recipe; or data set objects: (train, validation, test), (train, validation) or
            ``{"train": ..., "test": ...}``, used as they are, with None for a missing split; or a single one, split like a folder without splits.
            A data set is (images, labels), or returns (image, class number) by index. Pass the same objects to resume or evaluate the run.
        teacher: a finished run's folder or a section of the recipe; or one or several trained modules.
        resume: resume the run in ``output``; without a recipe, with its stored recipe.
        overrides: ``"key=value"`` strings, as on the command line.
        quiet: show no progress.
        trust_code: whether a recipe file, including that of the run to resume, may name a method by ``package.module:Class``.
        sections: settings by keyword, such as ``method="okdmde", training={"epochs": 3}, seed=1``.

    Returns:
        The finished run.

    Raises:
        CoterieError: the input is invalid; nothing is written then.
        RunError: the run failed; its folder keeps the last good checkpoint.
    """
    objects = sort_arguments(data, network, teacher)
    sections |= objects.sections
    network, datasets, modules = objects.network, objects.datasets, objects.teachers
    if datasets is not None:
        overrides = [*overrides, f"data.name={OWN_DATA}"]
    is_first = int(os.environ.get("RANK", "0")) == 0
    if resume:
        if output is None:
            raise CoterieError("resuming needs the run's folder: --output DIR")
        folder = RunFolder(output).require()
        stored = with_absolute_paths(load_recipe(folder.recipe, trust_code=True))  # only compared with what is run
        source = folder.recipe if recipe is None else recipe
        settings = load_recipe(source, overrides, trust_code=trust_code, **sections)
        settings = continued(with_absolute_paths(settings), stored, folder)
        require_same_objects(folder, network is not None, len(modules))
    else:
        settings = with_absolute_paths(load_recipe(recipe, overrides, trust_code=trust_code, **sections))
        if output is None and several_processes():
            raise CoterieError("several processes need the run's folder: --output DIR")
        folder = RunFolder(output if output is not None else free_name(settings, network, datasets))
        if is_first:
            require_free(folder)
    settings = resolve_selection(settings)
    require_trackers(settings)
    require_shard_settings(settings)
    if resume and settings.training.epochs == stored.training.epochs and is_complete(folder):
        for each in (folder, RunFolder(folder.path / FIRST_STAGE)) if is_first else ():
            restore_report(each)
        summary = folder.read_summary()
        validated(FinishedSummary, summary, folder.summary)
        return TrainResult(folder.path, summary, network)
    # A run of an earlier version may have settings that are refused now since they have no effect.
    find_task(settings).require(without_unused(settings) if resume else settings, len(modules))
    made = [path for path in [folder.path, *folder.path.parents] if not path.is_dir()]
    with lock(folder) if is_first else contextlib.nullcontext():
        if is_first and not resume:
            require_free(folder)  # checked again under the lock: another training may have used the folder meanwhile
        wait_for_all(settings)  # the main process has checked the folder before any process writes there
        try:
            with torch.random.fork_rng(devices=[]), process_group(settings):
                taught = with_first_stage(settings, folder, quiet, datasets)
                return _run(settings, taught, folder, network, datasets, modules, resume, quiet)
        except CoterieError:
            # Invalid input, found late: nothing was trained.
            if is_first and not resume and not any(folder.path.rglob("*.pt")):
                clear(folder.path, made)
            raise


def with_first_stage(recipe: Recipe, folder: RunFolder, quiet: bool, datasets: Any = None) -> Recipe:
    """Train or resume the method's first stage if it has one; returns the recipe with that stage's student as the teacher."""
    stage = find_task(recipe).first_stage(recipe)
    if stage is None:
        return recipe
    first = RunFolder(folder.path / FIRST_STAGE)
    goes_on = first.is_run
    wait_for_all(recipe)  # all processes have evaluated `goes_on` before the folder changes
    if int(os.environ.get("RANK", "0")) == 0:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_text(folder.recipe, recipe.to_yaml())
        if not goes_on and first.path.is_dir():
            shutil.rmtree(first.path)  # killed before its recipe was written
    wait_for_all(recipe)
    if goes_on:  # automatic settings were resolved for that stage's own network
        stage = with_stored_places(load_recipe(first.recipe, trust_code=True), stage)
    train(stage, output=first.path, resume=goes_on, quiet=quiet, data=datasets)
    return load_recipe({**recipe.model_dump(), "teacher": {"run": str(first.path)}, "teachers": []})


def _run(
    recipe: Recipe,
    taught: Recipe,
    folder: RunFolder,
    network: NetworkSource | None,
    datasets: Any,
    teachers: list[nn.Module],
    resume: bool,
    quiet: bool,
) -> TrainResult:
    started = time.perf_counter()
    accelerator = build_accelerator(recipe, folder)
    task = find_task(taught)(taught, accelerator, network, datasets, teachers=teachers)
    note = require_same_data(folder, task.data.fingerprint) if resume else None
    if not recipe.training.evaluate_test and task.data.validation is None:
        raise CoterieError(
            f"training.evaluate_test=false leaves nothing to measure: {task.data.info.name!r} has no validation split here; set data.validation"
        )
    fitted = task.recipe.model_copy(update={"teacher": recipe.teacher, "teachers": recipe.teachers})
    epochs = resolved(fitted.training.epochs)
    steps = epochs * -(-task.data.train.steps_per_epoch // fitted.training.accumulate)
    silent = quiet or not accelerator.is_main_process
    display = Display(steps, epochs, silent, task.data.train.num_samples, task.sample)
    method = task.build_method()
    recipe = resolve_memory_format(fitted, task, method, accelerator.device)
    trainer = Trainer(recipe, task, method, accelerator, folder, display)
    header = {**_header(recipe, task, method), "own_teachers": len(teachers)}
    if resume and folder.read_summary().get("status") == "running":
        display.note("the process that trained it is gone; going on from its last checkpoint")
    accelerator.wait_for_everyone()  # all processes have read the files that the main process now replaces
    if accelerator.is_main_process:
        folder.begin()
        write_text(folder.recipe, recipe.to_yaml())  # paths of the data may have changed on resumption
        if not folder.last.is_file():
            write_json(folder.data, task.data.fingerprint)
        if note:
            display.note(note)
        write_json(folder.environment, describe_environment(accelerator.device, recipe.seed, accelerator.num_processes))
        write_json(folder.summary, {"status": "running", **header})
    accelerator.wait_for_everyone()
    if recipe.training.trackers:
        accelerator.init_trackers("coterie")
    status: dict[str, Any] = {}
    try:
        with Interruption() as interruption:
            if resume:
                folder.clear_leftovers()
                if folder.last.is_file():
                    restore(trainer)
            if not silent:  # after all checks of the input
                _announce(display, task, method, accelerator, folder)
            trainer.fit(interruption)
            summary = conclude(trainer, header, time.perf_counter() - started)
    except Interrupted:
        status = {"status": "interrupted"}
        raise
    except Exception as error:
        status = {"status": "failed", "error": str(error)}
        raise
    finally:
        if status and accelerator.is_main_process:
            _write_status(folder, {**header, **status, "epoch": trainer.epoch, "step": trainer.step})
        if recipe.training.trackers:
            # A tracker that cannot write its last figures must not hide the error being raised.
            with contextlib.suppress(Exception) if status else contextlib.nullcontext():
                accelerator.end_training()
    return TrainResult(folder.path, summary, network)


def _announce(display: Display, task: Task, method: Method, accelerator: Accelerator, folder: RunFolder) -> None:
    """Print data, network, method, settings, device and run folder."""
    plan = plan_lines(task.recipe, accelerator.device, accelerator.num_processes, task.chosen)
    lines = [*data_lines(task), *network_lines(task.recipe, task, method), *plan, ("run", str(folder))]
    display.lines(laid_out(lines))
    for found in task.data.info.notes:
        display.note(f"{task.data.info.name}: {found}")


def _write_status(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Write to the summary how the run ended; a full disk must not hide the error being raised."""
    with contextlib.suppress(Exception):
        folder.require_place()
        try:
            write_json(folder.summary, summary)
        except Exception:
            folder.summary.unlink(missing_ok=True)


def _header(recipe: Recipe, task: Task, method: Method) -> dict[str, Any]:
    data = task.data
    return {
        "task": recipe.task,
        "method": recipe.method.name,
        "data": data.info.name,
        "network": "+".join(task.network_names) or OWN_NETWORK,
        "split_point": method.split_point,
        "leader": method.leader,
        "seed": recipe.seed,
        "epochs": recipe.training.epochs,
        "class_names": list(data.info.class_names),
        "num_train": data.train.num_samples,
        "num_validation": data.validation.num_samples if data.validation is not None else 0,
        "num_skipped": data.info.skipped,
        "num_passed_over": data.info.passed_over,
        "num_duplicates": dict(data.info.duplicates),
        "data_notes": list(data.info.notes),
        "num_test": data.test.num_samples if data.test is not None else 0,
    }
