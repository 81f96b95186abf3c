"""Collects run folders into ``comparison.json``: figures and learning curves of every run, settings, statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.comparison.folder import ComparisonFolder, Job
from coterie.comparison.plan import read_plan
from coterie.comparison.summary import summarise
from coterie.files import write_json
from coterie.metrics import primary
from coterie.recipe import Recipe
from coterie.run_folder import MetricsLog, RunFolder
from coterie.run_schema import FinishedSummary, validated
from coterie.tasks.figures import figures_of


def collect(folder: ComparisonFolder) -> dict[str, Any]:
    """Read the available results of every planned run, and write ``comparison.json``.

    The plan is read again each time, because another machine may have extended it.

    Raises:
        CoterieError: the folder holds no comparison, or a file in it is damaged.
    """
    plan = read_plan(folder)
    runs = [_read(folder, job) for job in plan.jobs()]
    shared, own = _split_settings(plan.arms)
    task = next(iter(plan.arms.values())).task
    comparison = {
        "task": task,
        "title": _title(runs, folder.path),
        "reference": plan.reference,
        "seeds": list(plan.seeds),
        "shared_settings": shared,
        "arm_settings": own,
        "runs": runs,
        **summarise(runs, plan.reference, figures_of(task)),
    }
    write_json(folder.comparison, comparison)
    return comparison


def _title(runs: list[dict[str, Any]], path: Path) -> str:
    about = next((run["about"] for run in runs if run["about"]), None)
    if about is None:
        return path.name
    return f"{about['data']}, {about['network']}, {about['num_train']:,} training samples, {about['epochs']} epochs"


def _read(folder: ComparisonFolder, job: Job) -> dict[str, Any]:
    run = RunFolder(folder.run(job))
    summary = run.read_summary()
    found: dict[str, Any] = {
        "label": job.label,
        "seed": job.seed,
        "folder": str(run.path.relative_to(folder.path)),
        "status": summary.get("status", "missing"),
        "evaluates_test": job.recipe.training.evaluate_test,
        "about": {},
        "figures": {},
        "curves": {},
    }
    if found["status"] == "finished":
        validated(FinishedSummary, summary, run.summary, job.recipe.task)
        keys = (
            "method",
            "data",
            "network",
            "split_point",
            "epochs",
            "split",
            "num_train",
            "num_validation",
            "num_test",
        )
        found["about"] = {key: summary[key] for key in keys} | {"num_classes": len(summary.get("class_names", ()))}
        found["figures"] = flat_figures(summary, job.recipe)
        found["curves"] = _curves(MetricsLog(run.metrics, job.recipe.task).rows(), figures_of(job.recipe.task)[0].key)
    elif folder.failure(job).is_file():
        found["status"] = "failed"
        found["error"] = folder.failure(job).read_text(encoding="utf-8").strip()
    elif "error" in summary:  # it will be tried again
        found["error"] = summary["error"]
    return found


def flat_figures(summary: Mapping[str, Any], recipe: Recipe) -> dict[str, float]:
    """Returns a run's figures by flat names, such as ``primary.top1``.

    ``primary`` is the result of :func:`coterie.metrics.primary`; ``deployed`` is the student
    selected on validation, a selection that a single network does not have.
    """
    figures: dict[str, float] = {}
    declared = figures_of(recipe.task)

    def add(prefix: str, values: Mapping[str, Any]) -> None:
        figures.update({f"{prefix}.{each.key}": float(values[each.key]) for each in declared if each.key in values})

    leader = summary.get("leader")
    add("primary", primary(summary, leader).figures)
    for name in ("deployed", "mean_student"):
        add(name, summary[name])
    for name, values in summary.get("ensemble", {}).items():
        add(f"ensemble_{name}", values)
    figures |= {f"diversity.{name}": float(value) for name, value in summary.get("diversity", {}).items()}
    if summary["validation"] is not None:
        add("validation.primary", primary(summary["validation"], leader).figures)
        for name, values in summary["validation"].get("ensemble", {}).items():
            add(f"validation.ensemble_{name}", values)
    fitted = f"train_{declared[0].key}"
    figures[fitted] = float(summary[fitted])
    figures["seconds_per_epoch"] = float(summary["seconds"]["per_epoch"])
    figures |= {f"parameters.{name}": float(value) for name, value in summary["parameters"].items()}
    entropy = summary.get("statistics", {}).get("attention_entropy")
    if entropy is not None:
        figures["attention_entropy"] = float(entropy)
    return figures


def _curves(rows: list[dict[str, Any]], key: str) -> dict[str, list[float]]:
    """Returns a validation figure over epochs, and the training loss at the end of each epoch."""
    evaluated = [row for row in rows if row["split"] == "validation"]
    ensembles = [each for row in evaluated if (each := row.get("ensemble", {}).get("mean_probability"))]
    last_of: dict[int, float] = {}
    for row in rows:
        if row["split"] == "train":
            last_of[row["epoch"]] = sum(row["losses"].values())
    return {
        "epoch": [row["epoch"] + 1 for row in evaluated],
        f"mean_student_{key}": [row["mean_student"][key] for row in evaluated],
        **({f"ensemble_{key}": [each[key] for each in ensembles]} if len(ensembles) == len(evaluated) else {}),
        "train_epoch": [epoch + 1 for epoch in last_of],
        "train_loss": list(last_of.values()),
    }


def _split_settings(arms: Mapping[str, Recipe]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns the settings that are equal in all arms, and each arm's other settings, by dotted names."""

    def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            inner = isinstance(value, Mapping) and value
            flat |= flatten(value, f"{prefix}{key}.") if inner else {prefix + key: value}
        return flat

    each = {label: flatten(recipe.model_dump(mode="json")) for label, recipe in arms.items()}
    first = next(iter(each.values()))
    shared = {
        key: value for key, value in first.items() if all(key in flat and flat[key] == value for flat in each.values())
    }
    for private in ("seed", "data.root"):  # arms have no seed of their own, and data.root is a local path
        shared.pop(private, None)
    own = {
        label: {key: value for key, value in flat.items() if key not in shared and key not in {"seed", "data.root"}}
        for label, flat in each.items()
    }
    return shared, own
