"""Writes tables, figures and a self-contained HTML page from ``comparison.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from coterie.errors import CoterieError
from coterie.files import write_text
from coterie.report import comparison_tables as tables
from coterie.report.comparison_figures import Band, Point, forest, learning_curve, scatter, standalone
from coterie.report.page import templates
from coterie.run_folder import read_json
from coterie.tasks.figures import Figure, capitalised, figures_of_run

Comparison = Mapping[str, Any]


def write_comparison_report(folder: Path | str) -> Path:
    """Write ``report.html``, ``comparison.md``, ``comparison.csv`` and ``figures/*.svg`` into a comparison's folder.

    Args:
        folder: the folder with ``comparison.json``; nothing else is read.

    Returns:
        Path of the page.

    Raises:
        CoterieError: ``comparison.json`` is missing or damaged.
        RunError: a file cannot be written.
    """
    path = Path(folder)
    comparison = read_json(path / "comparison.json")
    try:
        charts = draw(comparison)
        page = render(comparison, charts)
        write_text(path / "comparison.md", tables.markdown(comparison))
        write_text(path / "comparison.csv", tables.as_csv(comparison))
    except (KeyError, TypeError) as error:
        raise CoterieError(f"{str(path / 'comparison.json')!r} is damaged: {error!r}") from None
    if charts:
        (path / "figures").mkdir(exist_ok=True)
    for name, chart in charts.items():
        write_text(path / "figures" / f"{name}.svg", standalone(chart))
    write_text(path / "report.html", page)
    return path / "report.html"


def draw(comparison: Comparison) -> dict[str, Markup]:
    """Draws the charts for which there are figures; returns them by name."""
    reference, figure = comparison["reference"], tables.figure_of(comparison)
    main, ensemble, label_of = f"primary.{figure.key}", _ensemble(figure), figure.label
    charts: dict[str, Markup] = {}
    rows = [(label, row["mean"], row["interval"]) for label, row in comparison["differences"].get(main, {}).items()]
    if rows:
        rows.sort(key=lambda row: row[1], reverse=figure.better == "higher")  # the best first
        charts["differences"] = forest(rows, f"Difference of {label_of} from {reference} by arm, with 95 % intervals", label_of, figure.is_share)  # fmt: skip
    finished = [label for label, entry in comparison["methods"].items() if entry["runs"]]
    grouped = [label for label in finished if {"diversity.disagreement", ensemble} <= comparison["methods"][label]["figures"].keys()]  # fmt: skip
    if grouped:
        points = [_point(comparison, label, main, ensemble) for label in grouped]
        charts["ensemble"] = scatter(
            points, f"{capitalised(label_of)} of the deployed network against the ensemble's, by arm", label_of, "ensemble, mean probability",
            diagonal=True, x_share=figure.is_share, y_share=figure.is_share,
        )  # fmt: skip
        gains = [_gain(comparison, label, figure) for label in grouped]
        charts["diversity"] = scatter(
            gains, "Gain of the ensemble over the mean student against the students' disagreement, by arm", "disagreement", f"ensemble gain, {label_of}",
            y_share=figure.is_share,
        )  # fmt: skip
    base = comparison["methods"].get(reference, {}).get("figures", {}).get("seconds_per_epoch")
    if base and base["mean"] > 0 and len(finished) > 1:
        costs = [_cost(comparison, label, base["mean"], main) for label in finished]
        charts["cost"] = scatter(
            costs, f"{capitalised(label_of)} against the time of an epoch relative to the reference, by arm", f"time of an epoch, {reference} = 1", label_of,
            x_share=False, y_share=figure.is_share,
        )  # fmt: skip
    for each in figures_of_run(comparison):
        points = [_against(comparison, label, each, main) for label in finished if f"primary.{each.key}" in comparison["methods"][label]["figures"]] if each.cost else []  # fmt: skip
        if points:
            across = f"{each.label}, {each.unit}" if each.unit else each.label
            charts[f"cost_{each.key}"] = scatter(
                points, f"{capitalised(label_of)} against {each.label}, by arm", across, label_of, x_share=each.is_share, y_share=figure.is_share
            )  # fmt: skip
    return charts


def _against(comparison: Comparison, label: str, cost: Figure, main: str) -> Point:
    """Returns an arm's point in the chart of the primary figure against a cost of using the deployed network."""
    return _point(comparison, label, f"primary.{cost.key}", main)


def _ensemble(figure: Figure) -> str:
    return f"ensemble_mean_probability.{figure.key}"


def _number(comparison: Comparison, label: str) -> int:
    return list(comparison["methods"]).index(label) + 1


def _error(found: Mapping[str, Any]) -> float:
    """Returns the standard error of a figure's mean; 0 for one run."""
    return 0.0 if found["standard_deviation"] is None else found["standard_deviation"] / len(found["values"]) ** 0.5


def _point(comparison: Comparison, label: str, x: str, y: str) -> Point:
    figures = comparison["methods"][label]["figures"]
    across, up = figures[x], figures[y]
    return Point(
        _number(comparison, label),
        label,
        across["mean"],
        up["mean"],
        _error(across),
        _error(up),
        label == comparison["reference"],
    )


def _gain(comparison: Comparison, label: str, figure: Figure) -> Point:
    """Returns an arm's point with the ensemble's gain over the mean student; positive is better."""
    figures = comparison["methods"][label]["figures"]
    gain = figures[_ensemble(figure)]["mean"] - figures[f"mean_student.{figure.key}"]["mean"]
    across = figures["diversity.disagreement"]
    up = -gain if figure.better == "lower" else gain
    return Point(
        _number(comparison, label), label, across["mean"], up, _error(across), 0.0, label == comparison["reference"]
    )


def _cost(comparison: Comparison, label: str, base: float, main: str) -> Point:
    figures = comparison["methods"][label]["figures"]
    ratio = figures["seconds_per_epoch"]["mean"] / base
    up = figures[main]
    return Point(
        _number(comparison, label), label, ratio, up["mean"], 0.0, _error(up), label == comparison["reference"]
    )


def curves(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Draws the learning curve of every arm's mean student on the validation split; returns (label, chart) pairs."""
    bands = {label: band for label in comparison["methods"] if (band := _band(comparison, label)) is not None}
    if not bands:
        return []
    lows = [
        mean - deviation for band in bands.values() for mean, deviation in zip(band.mean, band.deviation, strict=True)
    ]
    highs = [
        mean + deviation for band in bands.values() for mean, deviation in zip(band.mean, band.deviation, strict=True)
    ]
    margin = 0.05 * (max(highs) - min(lows)) or 0.01
    limits = (max(0.0, min(lows) - margin), max(highs) + margin)
    reference, figure = bands.get(comparison["reference"]), tables.figure_of(comparison)
    return [
        (
            label,
            learning_curve(
                band,
                None if label == comparison["reference"] else reference,
                f"Validation {figure.label} of {label} over epochs",
                limits,
                figure.is_share,
            ),
        )
        for label, band in bands.items()
    ]


def _band(comparison: Comparison, label: str) -> Band | None:
    """Returns mean and standard deviation over seeds, at the epochs that all runs of an arm have."""
    found = [run["curves"] for run in comparison["runs"] if run["label"] == label and run["curves"].get("epoch")]
    if not found:
        return None
    epochs = sorted(set.intersection(*(set(curve["epoch"]) for curve in found)))
    if not epochs:
        return None
    key = f"mean_student_{tables.figure_of(comparison).key}"
    values = np.array([[curve[key][curve["epoch"].index(epoch)] for epoch in epochs] for curve in found])
    deviation = values.std(0, ddof=1) if len(values) > 1 else np.zeros(len(epochs))
    return Band(epochs, values.mean(0).tolist(), deviation.tolist())


def render(comparison: Comparison, charts: Mapping[str, Markup]) -> str:
    """Renders the HTML page."""
    arms, main, figure = comparison["methods"], tables.main_column(comparison), tables.figure_of(comparison)
    rows = [
        {
            "number": _number(comparison, label),
            "label": label,
            "reference": label == comparison["reference"],
            "main": [
                str(entry["runs"]),
                tables.cell(entry, main),
                tables.interval(comparison, label),
                tables.difference(comparison, label),
                tables.p_value(comparison, label, "p_holm"),
                tables.p_value(comparison, label, "p_permutation"),
            ],
        }
        for label, entry in arms.items()
    ]
    groups = [
        (title, columns, [[tables.cell(entry, column) for column in columns] for entry in arms.values()])
        for title, columns in tables.column_groups(comparison)
    ]
    finished = sum(run["status"] == "finished" for run in comparison["runs"])
    return (
        templates()
        .get_template("comparison.html.jinja")
        .render(
            title=comparison["title"],
            label=figure.label,
            heading=capitalised(figure.label),
            unit="in points" if figure.is_share else f"in {figure.unit}" if figure.unit else "",
            reference=comparison["reference"],
            reading=comparison["reading"],
            seeds=comparison["seeds"],
            finished=finished,
            planned=len(comparison["runs"]),
            main_columns=[
                "n",
                main.heading,
                "95 % interval",
                f"−\u00a0{comparison['reference']}",
                "p, Holm",
                "p, sign flips",
            ],
            rows=rows,
            use_costs=[
                (each, charts[f"cost_{each.key}"])
                for each in figures_of_run(comparison)
                if f"cost_{each.key}" in charts
            ],
            groups=groups,
            charts=charts,
            curves=curves(comparison),
            settings=yaml.safe_dump(comparison["shared_settings"], sort_keys=False, allow_unicode=True, width=100),
            arm_settings=[
                (label, yaml.safe_dump(own, sort_keys=False, allow_unicode=True, width=100))
                for label, own in comparison["arm_settings"].items()
            ],
            failures=[run for run in comparison["runs"] if run["status"] == "failed"],
        )
    )
