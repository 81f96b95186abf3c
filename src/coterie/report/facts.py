"""The terms of the report's first section: method, data, network, training, time, machine."""

from __future__ import annotations

from coterie.report.run import GroupFigures, RunData
from coterie.report.wording import count, duration, plural, size
from coterie.tasks import find_part


def facts(run: RunData, figures: GroupFigures | None) -> list[tuple[str, str]]:
    """Returns terms and their descriptions, except those that are not known (yet)."""
    summary, recipe, environment = run.summary, run.recipe, run.environment
    optimizer, training = recipe.optimizer, recipe.training
    trained = summary.epochs_trained or summary.epochs
    epochs = plural(trained, "epoch") + (f" of {summary.epochs} planned" if trained < summary.epochs else "")
    found = {
        "Method": summary.method,
        "Settings": ", ".join(f"{key}={value}" for key, value in recipe.method.options.items()),
        "Data": f"{summary.data}: {_samples(run)}",
        "Network": summary.network + (", pretrained" if recipe.network.pretrained is True else ""),
        "Students": _students(run, figures) if figures else "",
        "Training": f"{epochs} in batches of {training.batch_size}, seed {summary.seed}",
        "Optimizer": f"{optimizer.name}, learning rate {_number(optimizer.learning_rate)} ({recipe.schedule.name}), "
        f"weight decay {_number(optimizer.weight_decay)}",
    }
    if summary.parameters:
        found["Parameters"] = (
            f"{size(summary.parameters.deployed)} deployed, {size(summary.parameters.trained)} trained"
        )
    if summary.seconds:
        found["Time"] = f"{duration(summary.seconds.total)}, {duration(summary.seconds.per_epoch)} an epoch"
        if summary.images_per_second:
            found["Time"] += f", {count(summary.images_per_second)} {run.sample}s a second"
    if environment.device:
        processes = f", {environment.processes} processes" if environment.processes > 1 else ""
        found["Machine"] = (
            f"{environment.device}, {plural(environment.threads, 'thread')}{processes}, {training.precision}"
        )
    named = [
        f"{name} {environment.versions[name]}"
        for name in ("coterie", "torch", find_part(run.recipe.task, "formats")[0].library)
        if name in environment.versions
    ]
    found["Software"] = ", ".join(named)
    return [(term, description) for term, description in found.items() if description]


def _samples(run: RunData) -> str:
    summary = run.summary
    splits = [("training", summary.num_train), ("validation", summary.num_validation), ("test", summary.num_test)]
    counted = ", ".join(f"{count(number)} {name}" for name, number in splits if number)
    classes = len(summary.class_names)
    return f"{counted} {run.sample}s" + (f" in {classes} classes" if classes else "")


def _students(run: RunData, figures: GroupFigures) -> str:
    if len(figures.students) == 1:
        return ""
    at = run.summary.split_point
    return f"{len(figures.students)}, {f'split before {at}' if at else 'nothing shared'}"


def _number(value: float | str) -> str:
    """Formats a setting; it is still ``auto`` if a run ended before its data were read."""
    return value if isinstance(value, str) else f"{value:g}"
