"""Lines that are printed before training starts: the data, the network, the main settings, and the run folder."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

import torch

from coterie.methods.method import Method
from coterie.recipe import Recipe
from coterie.recipe.sections import resolved
from coterie.report.wording import plural, size
from coterie.running.continuation import OWN_NETWORK
from coterie.running.outcome import parameter_counts
from coterie.tasks.task import Task
from coterie.terminal import one_line

WIDTH = 80  # columns
MARGIN = 10  # columns of the label
SHOWN_CLASSES = 5
LONGEST_NAME = 24  # characters of a class's name
Line = tuple[str, str]  # label and text


def laid_out(lines: Iterable[Line]) -> list[str]:
    """Wraps lines to 80 columns, with the labels in their own column; longer words are not broken."""
    shown = []
    for word, text in lines:
        shown += textwrap.wrap(
            one_line(text),
            WIDTH,
            initial_indent=f"{word:<{MARGIN}}",
            subsequent_indent=" " * MARGIN,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return shown


def data_lines(task: Task) -> list[Line]:
    """Returns lines about the data: classes, samples of each split, and samples that are left out."""
    data, info = task.data, task.data.info
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in info.class_names]
    shown = ", ".join(names[:SHOWN_CLASSES]) + (", ..." if len(names) > SHOWN_CLASSES else "")
    classes = [f"{len(names):,} class{'es' if len(names) > 1 else ''} ({shown})"] if names else []
    splits = {"training": data.train, "validation": data.validation, "test": data.test}
    counts = [f"{loader.num_samples:,} {split}" if loader else f"no {split}" for split, loader in splits.items()]
    found = {
        "left out": info.skipped,
        "passed over": info.passed_over,
        **{f"of {split} also in training": count for split, count in info.duplicates.items()},
    }
    parts = [f"{', '.join(counts)} {task.sample}s", *(f"{count:,} {what}" for what, count in found.items() if count)]
    return [("data", f"{info.name}: {', '.join([*classes, task.sample_size])}"), ("", ", ".join(parts))]


def network_line(recipe: Recipe, task: Task, method: Method) -> Line:
    """Returns the line about the network: architecture, source of its weights, number of parameters."""
    start = recipe.network.weights_of or "not pretrained"
    if (freeze := recipe.network.freeze) != 0:
        start += ", frozen but for the classifiers" + (
            "" if freeze == "backbone" else f" for {plural(freeze, 'epoch')}"
        )
    counts = parameter_counts(method, method.student())
    name = "+".join(task.network_names) or OWN_NETWORK
    return (
        "network",
        f"{name}, {start}; {size(counts['deployed'])} parameters deployed, {size(counts['trained'])} trained",
    )


def method_line(recipe: Recipe, method: Method) -> Line:
    """Returns the line about the method: its settings from the recipe, the number of students and what they share, and the teachers."""
    options = ", ".join(f"{key}={value}" for key, value in recipe.method.options.items())
    students = "one student"
    if method.num_students > 1:
        trunk = getattr(method.networks, "trunk", None)
        shared = trunk is not None and any(True for _ in trunk.parameters())
        at = f", split at {method.split_point}" if method.split_point else ""
        students = f"{method.num_students} students {f'on a shared trunk{at}' if shared else 'with nothing shared'}"
    teachers = ", ".join(str(each.run or each.network) for each in recipe.all_teachers())
    if not teachers and method.teachers is not None:
        teachers = "your own network"
    parts = [recipe.method.name + (f" ({options})" if options else ""), students]
    return "method", "; ".join([*parts, *([f"taught by {teachers}"] if teachers else [])])


def settings_lines(recipe: Recipe, chosen: Mapping[str, str]) -> list[Line]:
    """Returns lines about the main training settings.

    Args:
        recipe: a recipe with every setting resolved.
        chosen: automatically chosen settings, by full name such as ``training.epochs``, each with its reason. They are marked with a star.
    """
    optimizer, schedule, training = recipe.optimizer, recipe.schedule, recipe.training

    def star(key: str) -> str:
        return "*" if key in chosen else ""

    parts = [
        f"{optimizer.name}{star('optimizer.name')}",
        f"rate {optimizer.learning_rate:g}{star('optimizer.learning_rate')} ({schedule.name})",
        f"weight decay {optimizer.weight_decay:g}{star('optimizer.weight_decay')}",
        f"batch {training.batch_size:,}{star('training.batch_size')}",
        f"{plural(resolved(training.epochs), 'epoch')}{star('training.epochs')}",
    ]
    if training.accumulate > 1:
        parts.insert(4, f"{training.accumulate} batches a step")
    if schedule.warmup_epochs:
        parts.append(f"{schedule.warmup_epochs:g}{star('schedule.warmup_epochs')} of them warm-up")
    if recipe.network.hold_statistics is True:
        parts.append(f"BatchNorm's statistics held{star('network.hold_statistics')}")
    keys_of: dict[str, list[str]] = {}
    for key, reason in chosen.items():
        keys_of.setdefault(reason, []).append(key)
    because = [f"{', '.join(keys)} ({reason})" for reason, keys in keys_of.items()]
    return [("settings", ", ".join(parts)), *([("* chosen", "; ".join(because))] if because else [])]


def device_line(recipe: Recipe, device: torch.device, processes: int) -> Line:
    """Returns the line about device, precision, compilation and processes."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type}, {plural(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else device.type
    parts = [name, recipe.training.precision, *(["compiled"] if recipe.training.compile else [])]
    return "device", ", ".join([*parts, *([f"{processes} processes"] if processes > 1 else [])])


def plan_lines(recipe: Recipe, device: torch.device, processes: int, chosen: Mapping[str, str]) -> list[Line]:
    """Returns the lines that need no network: main settings and device."""
    return [*settings_lines(recipe, chosen), device_line(recipe, device, processes)]


def network_lines(recipe: Recipe, task: Task, method: Method) -> list[Line]:
    """Returns the lines about the students and the method that trains them."""
    return [network_line(recipe, task, method), method_line(recipe, method)]
