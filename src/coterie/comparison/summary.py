"""Summarises the runs of a comparison: statistics of each arm, paired differences, and conclusions in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coterie.metrics.statistics import ENOUGH_SEEDS, detectable, holm, paired_difference, spread
from coterie.tasks.figures import Figure

GROUPS = (  # groups of figures that are compared
    "primary",
    "deployed",
    "ensemble_mean_probability",
    "ensemble_method",
    "validation.primary",
    "validation.ensemble_mean_probability",
    "validation.ensemble_method",
)
SIGNIFICANT = 0.05
OVER_FIT = 0.05  # gap between the accuracy on training samples and on others that counts as over-fitting
LEARNED = (
    0.25  # accuracy on training samples, scaled from 0 at chance to 1, below which a network counts as under-trained
)


def summarise(runs: Sequence[dict[str, Any]], reference: str, declared: Sequence[Figure]) -> dict[str, Any]:
    """Computes statistics over seeds of finished runs.

    Args:
        runs: each with ``label``, ``seed``, ``status`` and, if it is finished, flat ``figures``.
        reference: label of the arm that the others are compared with.
        declared: the task's figures; sentences are about the first one.

    Returns:
        ``methods`` (label -> number of runs and each figure's mean, standard deviation, interval, values), ``differences``
        (figure -> label -> paired difference from the reference with p-values, also Holm-corrected over the arms), ``reading`` (sentences).
    """
    finished: dict[str, dict[int, dict[str, float]]] = {run["label"]: {} for run in runs}
    for run in runs:
        if run["status"] == "finished":
            finished[run["label"]][run["seed"]] = run["figures"]
    methods = {label: _statistics(by_seed) for label, by_seed in finished.items()}
    compared = [f"{group}.{figure.key}" for group in GROUPS for figure in declared]
    differences = {name: _differences(name, finished, reference) for name in compared}
    differences = {name: rows for name, rows in differences.items() if rows}
    return {
        "methods": methods,
        "differences": differences,
        "reading": _reading(runs, finished, methods, differences, reference, declared[0]),
    }


def _statistics(by_seed: dict[int, dict[str, float]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in next(iter(by_seed.values()), {}):
        values = [figures_of[name] for figures_of in by_seed.values() if name in figures_of]
        found = spread(values)
        figures[name] = {**found._asdict(), "values": values}
    return {"runs": len(by_seed), "seeds": list(by_seed), "figures": figures}


def _differences(
    figure: str, finished: dict[str, dict[int, dict[str, float]]], reference: str
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for label in finished:
        pair = paired(finished, figure, label, reference)
        if label != reference and pair:
            rows[label] = paired_difference(*pair)._asdict()
    corrected = holm({label: row["p_t"] for label, row in rows.items()})
    return {label: {**row, "p_holm": corrected[label]} for label, row in rows.items()}


def paired(
    finished: dict[str, dict[int, dict[str, float]]], figure: str, first: str, second: str
) -> tuple[list[float], list[float]] | None:
    """Returns the values of a figure of two arms at their common seeds; None if there are none."""
    ours, theirs = finished.get(first, {}), finished.get(second, {})
    seeds = [seed for seed in ours if figure in ours[seed] and figure in theirs.get(seed, {})]
    return ([ours[seed][figure] for seed in seeds], [theirs[seed][figure] for seed in seeds]) if seeds else None


def _reading(
    runs: Sequence[dict[str, Any]],
    finished: dict[str, dict[int, dict[str, float]]],
    methods: dict[str, Any],
    compared: dict[str, dict[str, Any]],
    reference: str,
    figure: Figure,
) -> list[str]:
    differences = compared.get(f"primary.{figure.key}", {})
    said = _about_missing(runs) + _about_split(runs, methods, figure)
    if not methods.get(reference, {}).get("runs"):
        return [*said, f"The reference {reference} has no finished run, so nothing can be compared yet."]
    fewest = min((row["pairs"] for row in differences.values()), default=0)
    if fewest < ENOUGH_SEEDS:
        said.append(
            f"Some arms have {fewest} seed(s) together with the reference: no claim can be made of those; {ENOUGH_SEEDS} are the least, 5 are better."
        )
    said += [
        _verdict(label, row, reference, figure) for label, row in differences.items() if row["pairs"] >= ENOUGH_SEEDS
    ]
    said += _about_best(finished, methods, figure)
    said += _about_ensembles(finished, figure)
    if figure.proportion:
        classes = max(run.get("about", {}).get("num_classes", 0) for run in runs)
        said += _about_fit(methods, reference, figure, 1 / classes if classes else 0.0)
    return said + _about_cost(methods, reference)


def _about_missing(runs: Sequence[dict[str, Any]]) -> list[str]:
    failed = [
        f"{run['label']} seed {run['seed']} ({run.get('error', 'no reason noted')})"
        for run in runs
        if run["status"] == "failed"
    ]
    missing = sum(run["status"] not in {"finished", "failed"} for run in runs)
    said = [f"Failed and left out: {'; '.join(failed)}."] if failed else []
    return said + ([f"{missing} of {len(runs)} runs are not finished."] if missing else [])


def _about_split(runs: Sequence[dict[str, Any]], methods: dict[str, Any], figure: Figure) -> list[str]:
    """For runs that did not evaluate the test split: says which arm is best on validation, and how to test it."""
    done = [run for run in runs if run["status"] == "finished"]
    if not done or any(run.get("evaluates_test", True) for run in done):
        return []
    said = "Figures are of the validation split; the test split was not touched"
    main = f"primary.{figure.key}"
    means = {
        label: entry["figures"][main]["mean"]
        for label, entry in methods.items()
        if entry["runs"] and main in entry["figures"]
    }
    if len(done) < len(runs) or figure.better is None or not means:
        return [f"{said}."]
    best = (max if figure.better == "higher" else min)(means, key=lambda label: means[label])
    return [
        f"{said}. By its mean {figure.label} {best} is chosen; what it is worth the test split says, once (`coterie evaluate`), or a comparison of its own."
    ]


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _by(figure: Figure, value: float) -> str:
    """``1.23 points of top-1``, ``0.0123 NLL``."""
    size = f"{figure.difference(value, signed=False)} {figure.step}"
    return f"{size} of {figure.label}" if figure.is_share else size


def _interval(figure: Figure, interval: tuple[float, float]) -> str:
    return f"95 % interval {figure.difference(interval[0])} to {figure.difference(interval[1])}"


def _verdict(label: str, row: dict[str, Any], reference: str, figure: Figure) -> str:
    interval = _interval(figure, row["interval"])
    if row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT:
        word = "better" if figure.is_better(row["mean"], 0.0) else "worse"
        return (
            f"{label} is {word} than {reference} by {_by(figure, row['mean'])} "
            f"({interval}, {_p(row['p_holm'])} after Holm's correction, {row['pairs']} seeds)."
        )
    if row["p_t"] is not None and row["p_t"] < SIGNIFICANT:
        word = "above" if row["mean"] > 0 else "below"
        return (
            f"{label} is {word} {reference} by {_by(figure, row['mean'])} ({interval}), which would count alone "
            f"({_p(row['p_t'])}), but not among so many arms ({_p(row['p_holm'])} after Holm's correction, {row['pairs']} seeds)."
        )
    visible = detectable(row["standard_error"], row["pairs"])
    return (
        f"{label} is not distinguishable from {reference} at {row['pairs']} seeds ({figure.difference(row['mean'])} {figure.step}, {interval}); "
        f"an effect below about {figure.difference(visible, signed=False)} {figure.step} would mostly go unseen."
    )


def _about_best(finished: dict[str, dict[int, dict[str, float]]], methods: dict[str, Any], figure: Figure) -> list[str]:
    main = f"primary.{figure.key}"
    enough = {
        label: entry["figures"][main]["mean"] for label, entry in methods.items() if entry["runs"] >= ENOUGH_SEEDS
    }
    if len(enough) < 3 or figure.better is None:
        return []
    word, choose = ("highest", max) if figure.better == "higher" else ("lowest", min)
    best = choose(enough, key=lambda label: enough[label])
    rows = {label: pair for label in enough if label != best and (pair := paired(finished, main, label, best))}
    corrected = holm({label: paired_difference(*pair).p_t for label, pair in rows.items()})
    level = [label for label, p in corrected.items() if p is None or p >= SIGNIFICANT]
    named = (
        f"Not distinguishable from it: {', '.join(level)}." if level else "Every other arm is distinguishable from it."
    )
    return [
        f"The {word} mean is {best}'s; the best of {len(enough)} arms is a selection and looks better than it is. {named}"
    ]


def _about_ensembles(finished: dict[str, dict[int, dict[str, float]]], figure: Figure) -> list[str]:
    said = []
    own, mean = f"ensemble_method.{figure.key}", f"ensemble_mean_probability.{figure.key}"
    for label, by_seed in finished.items():
        pairs = [
            (each[own], each[mean])
            for each in by_seed.values()
            if each.get("diversity.disagreement") is not None and own in each and mean in each
        ]
        if len(pairs) < ENOUGH_SEEDS:
            continue
        row = paired_difference([first for first, _ in pairs], [second for _, second in pairs])
        if row.interval is not None and (row.interval[0] > 0 or row.interval[1] < 0):
            word = "better" if figure.is_better(row.mean, 0.0) else "worse"
            said.append(
                f"{label}'s own ensemble is {word} than the mean probability of the same students by {_by(figure, row.mean)} "
                f"({_interval(figure, row.interval)}, not corrected)."
            )
    return said


def _about_fit(methods: dict[str, Any], reference: str, figure: Figure, chance: float) -> list[str]:
    figures = methods[reference]["figures"]
    train, primary = figures[f"train_{figure.key}"]["mean"], figures[f"primary.{figure.key}"]["mean"]
    fitted = f"{100 * train:.1f} % on the training samples, {100 * primary:.1f} % on the others"
    if train - primary > OVER_FIT:
        return [f"{reference} over-fits: {fitted}."]
    if (train - chance) / (1 - chance) < LEARNED:
        return [
            f"{reference} is under-trained: {fitted}; train longer, or with another rate, before methods are compared."
        ]
    return [f"{reference} does not over-fit: {fitted}, a regime in which distillation has little to add."]


def _about_cost(methods: dict[str, Any], reference: str) -> list[str]:
    base = methods[reference]["figures"]["seconds_per_epoch"]["mean"]
    ratios = {
        label: entry["figures"]["seconds_per_epoch"]["mean"] / base
        for label, entry in methods.items()
        if entry["runs"] and label != reference
    }
    if not ratios or base <= 0:
        return []
    cheap, dear = min(ratios, key=lambda x: ratios[x]), max(ratios, key=lambda x: ratios[x])
    low, high = f"{ratios[cheap]:.1f}", f"{ratios[dear]:.1f}"
    shown = f"{low} ({cheap}) to {high} ({dear})" if low != high else low
    whose = f" of {cheap}" if len(ratios) == 1 else ""
    sizes = {methods[label]["figures"].get("parameters.deployed", {}).get("mean") for label in (reference, *ratios)}
    same = "; the deployed networks are of one size" if len(sizes) == 1 and None not in sizes else ""
    return [f"An epoch of training{whose} takes {shown} times {reference}'s, without first stages{same}."]
