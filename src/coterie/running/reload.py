"""Reloads the method of a finished run, with all students and heads, and evaluates it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from coterie.data.batch import Loaders
from coterie.data.fingerprint import differences
from coterie.data.objects import to_datasets
from coterie.errors import CoterieError
from coterie.methods.method import Method
from coterie.networks.branching import NetworkSource
from coterie.recipe import Recipe, load_recipe
from coterie.run_folder import RunFolder
from coterie.run_lock import require_finished
from coterie.running.accelerator import build_accelerator
from coterie.running.arguments import sort_arguments
from coterie.tasks.evaluation import Evaluation
from coterie.tasks.task import Task, find_task
from coterie.training.state import load_weights

MEASURED_WITH = ("batch_size", "channels_last", "device", "precision")  # training settings that an evaluation reads


def load_method(run: str | Path, network: NetworkSource | None = None, *, trust_code: bool = False) -> Method:
    """Rebuild the method of a finished run, in eval mode, on the CPU.

    Args:
        run: the run folder.
        network: the untrained network, if the run was trained on a custom module.
        trust_code: whether the run may name a method by ``package.module:Class``, whose code is imported.

    Raises:
        CoterieError: the folder holds no run, the run is not finished, its checkpoint is damaged, or it names code without ``trust_code``.
    """
    folder = RunFolder(run).require()
    # Do not download pretrained weights: the checkpoint replaces them.
    recipe = load_recipe(folder.recipe, ["network.pretrained=false"], trust_code=trust_code)
    require_finished(folder)
    description = folder.read_description()
    if description["network"] is None and network is None:
        raise CoterieError(f"the run {str(run)!r} was trained on a network of your own: pass it, network=...")
    method = find_task(recipe).rebuild_method(recipe, description, network)
    best = recipe.training.select == "best" and folder.best.is_file()
    load_weights(folder.best if best else folder.last, method)
    if description["student"] >= method.num_students:
        raise CoterieError(
            f"{str(folder.student_description)!r} is damaged: student {description['student']} is none of {method.num_students}"
        )
    method.deployed_student = description["student"]
    return method.eval()


def evaluate_run(
    run: str | Path,
    overrides: list[str] | tuple[str, ...] = (),
    *,
    data: Any = None,
    network: NetworkSource | None = None,
    trust_code: bool = False,
) -> tuple[str, Evaluation]:
    """Evaluate a finished run again, on its own test split or on other data with the same classes.

    Args:
        run: the run folder.
        overrides: ``data.*`` and ``training.*`` settings that differ from the run's.
        data: a data set's name or folder; or data set objects, see :func:`coterie.train`; a single one is evaluated whole.
        network: the untrained network, if the run was trained on a custom module.
        trust_code: whether the run may name a method by ``package.module:Class``, whose code is imported.

    Returns:
        The split's name and its evaluation, whose figures include those of every class.

    Raises:
        CoterieError: a setting would change the networks, or the data have other classes.
    """
    from coterie.training.memory_format import move_to_device, resolve_memory_format

    objects = sort_arguments(data, network)
    if objects.sections.get("network") is not None:
        raise CoterieError("network= takes the untrained network of your own, a module or a callable that builds one")
    folder = RunFolder(run).require()
    stored = load_recipe(folder.recipe, trust_code=trust_code)
    for override in overrides:
        section = override.partition("=")[0].partition(".")[0]
        if section not in {"data", "training"}:
            raise CoterieError(f"{override!r}: only data.* and training.* can differ from the run that is evaluated")
    _require_read(overrides, stored)
    method = load_method(run, objects.network, trust_code=trust_code)
    # A limit on training samples does not apply here.
    recipe: Recipe = load_recipe(stored, [*overrides, "data.train_limit=null"], **objects.sections)
    accelerator = build_accelerator(recipe)
    keys = {override.partition("=")[0] for override in overrides}
    named = data is not None or _differs(recipe, stored) or bool(keys & {"data", "data.name", "data.root"})
    task = _task(recipe, stored, accelerator, folder, objects.datasets, named)
    expected: list[Any] = folder.read_description().get("class_names", [])
    if list(task.data.info.class_names) != expected:
        raise CoterieError(
            f"{task.data.info.name!r} has the classes {_listing(task.data.info.class_names)}, the run was trained on {_listing(expected)}"
        )
    loader = task.data.test or task.data.validation
    if loader is None:
        raise CoterieError(f"{task.data.info.name!r} has neither a test nor a validation split")
    recipe = resolve_memory_format(recipe, task, method, accelerator.device)
    placed = move_to_device(method, accelerator.device, recipe.training.channels_last is True)
    evaluation = task.evaluate(placed, loader)
    figures = task.final_figures(evaluation)
    figures |= {
        "task": stored.task,
        "data": task.data.info.name,
        "num_samples": loader.num_samples,
        "leader": method.leader,
        "data_notes": list(task.data.info.notes),
    }
    return "test" if task.data.test else "validation", replace(evaluation, figures=figures)


def _require_read(overrides: Sequence[str], stored: Recipe) -> None:
    """Refuse settings that only affect training, not evaluation.

    Raises:
        CoterieError: an override sets one of them.
    """
    keys = {override.partition("=")[0]: override for override in overrides}
    trained = {f"data.{key}" for key in stored.data.training_only}
    trained |= {f"training.{key}" for key in type(stored.training).model_fields if key not in MEASURED_WITH}
    for key in keys.keys() & trained:
        raise CoterieError(
            f"{keys[key]!r} changes how a network is trained and nothing of an evaluation; of training.* it reads {', '.join(MEASURED_WITH)}"
        )


def load_run_data(folder: RunFolder, stored: Recipe) -> Loaders:
    """Loads a finished run's own data, split and prepared as in its evaluation, on the CPU.

    Args:
        folder: the run folder.
        stored: its recipe.

    Raises:
        CoterieError: the data cannot be read, or are not what the run was trained on.
    """
    settings = ["training.device=cpu", "training.precision=fp32", "training.channels_last=false"]
    recipe = load_recipe(stored, settings)
    return _task(recipe, stored, build_accelerator(recipe), folder, None, named=False).data


def _task(
    recipe: Recipe, stored: Recipe, accelerator: Accelerator, folder: RunFolder, datasets: Any, named: bool
) -> Task:
    """Builds the task on the run's data, which keep their splits under any path, or on other data, which are evaluated whole if they have no splits.

    Args:
        named: whether the caller named the data, which may then differ from the run's.

    Raises:
        CoterieError: data that were not named have changed: their splits may differ, with training samples in the test split.
    """
    kind = find_task(recipe)
    as_trained = recipe.model_copy(update={"data": stored.data.model_copy(update=recipe.data.located())})
    try:
        if not folder.data.is_file():  # of an older version
            changed = ["unknown"] if datasets is not None or _differs(recipe, stored) else []
        else:
            own = kind.for_evaluation(as_trained, accelerator, folder, datasets)
            changed = differences(folder.read_data(), own.data.fingerprint)
            if not changed and recipe.data == as_trained.data:
                return own
    except CoterieError:  # data that cannot be split like the run's are other data
        if not named:
            raise
        changed = ["unreadable"]
    if not changed:
        return kind.for_evaluation(recipe, accelerator, folder, datasets)
    if not named:
        raise CoterieError(
            f"the data of {str(folder)!r} are not what it was trained on: {'; '.join(changed)}; to measure them as they are, name them: data=..."
        )
    if datasets is not None and (several := to_datasets(datasets))[1:] == (None, None):
        datasets = (several[0], None, several[0])
    return kind.for_evaluation(recipe, accelerator, folder, datasets, whole=True)


def _differs(recipe: Recipe, stored: Recipe) -> bool:
    return recipe.data.located() != stored.data.located()


def _listing(names: Any) -> str:
    shown = ", ".join(str(name) for name in list(names)[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
