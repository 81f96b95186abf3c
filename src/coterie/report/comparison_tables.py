"""The tables of a comparison: Markdown, CSV, and cells of the HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from coterie.metrics.statistics import ENOUGH_SEEDS
from coterie.tasks.figures import Figure, capitalised, figures_of_run, shown_figures

Comparison = Mapping[str, Any]


class Column(NamedTuple):
    """A figure's column: key in ``comparison.json``, heading, factor, decimals, whether the spread is shown.

    ``group`` is the title of its table on the page; the first column belongs to the main table.
    """

    key: str
    heading: str
    factor: float
    decimals: int
    spread: bool = False
    group: str = ""


WIDTH = 7  # maximum number of columns of a table on the page, without the arm's
NAMED = {  # heading of each group of figures
    "deployed": "deployed",
    "ensemble_mean_probability": "ensemble, mean probability",
    "ensemble_mean_logit": "ensemble, mean logit",
    "ensemble_method": "ensemble, own",
}
COST = (
    Column("diversity.disagreement", "disagreement %", 100, 1),
    Column("diversity.distance", "distance", 1, 3),
    Column("seconds_per_epoch", "s / epoch", 1, 2),
    Column("parameters.trained", "parameters trained", 1, 0),
    Column("parameters.deployed", "deployed", 1, 0),
)


def figure_of(comparison: Comparison) -> Figure:
    """Returns the figure by which arms are compared."""
    return figures_of_run(comparison)[0]


def main_column(comparison: Comparison) -> Column:
    """Returns the column of the figure by which arms are compared."""
    figure = figure_of(comparison)
    return _column(f"primary.{figure.key}", "", figure, spread=True)


def ensemble_column(comparison: Comparison) -> Column | None:
    """Returns the column of the mean-probability ensemble; None if no arm has one."""
    figure = figure_of(comparison)
    column = _column(f"ensemble_mean_probability.{figure.key}", "ensemble", figure)
    return column if _has(comparison, column) else None


def _column(key: str, whose: str, figure: Figure, group: str = "", spread: bool = False) -> Column:
    """Builds the column of a figure. The heading of a share is "%", of another figure its name; that of the main figure has both."""
    decimals = int("".join(filter(str.isdecimal, figure.format)) or 0)
    name = f"{figure.label} %" if figure.is_share else figure.label
    heading = (
        f"{whose} {name}".strip()
        if whose in {"", "train", "validation"}
        else f"{whose} {'%' if figure.is_share else name}"
    )
    return Column(key, heading, 100 if figure.is_share else 1, decimals, spread, group)


def all_columns(comparison: Comparison) -> list[Column]:
    """Returns all columns: the main figure, the same figure of other networks and splits, the other figures, diversity and cost."""
    first, *others = figures_of_run(comparison)
    same = f"More of {first.label}"
    columns = [main_column(comparison)]
    columns += [_column(f"{key}.{first.key}", whose, first, same) for key, whose in NAMED.items()]
    columns += [_column(f"train_{first.key}", "train", first, same)]
    columns += [_column(f"validation.primary.{first.key}", "validation", first, same)]
    classes = max((run.get("about", {}).get("num_classes", 0) for run in comparison["runs"]), default=0)
    shown = shown_figures(others, {figure.key for figure in others}, classes)
    columns += [_column(f"primary.{figure.key}", "", figure, "Other figures") for figure in shown]
    return columns + [column._replace(group="Diversity and cost") for column in COST]


def _has(comparison: Comparison, column: Column) -> bool:
    return any(column.key in entry["figures"] for entry in comparison["methods"].values())


def cell(entry: Mapping[str, Any], column: Column) -> str:
    """Returns an arm's figure as text; a dash if it has none."""
    found = entry["figures"].get(column.key)
    if found is None:
        return "–"
    text = f"{column.factor * found['mean']:,.{column.decimals}f}"
    if column.spread and found["standard_deviation"] is not None:
        text += f" ± {column.factor * found['standard_deviation']:.{column.decimals}f}"
    return text


def interval(comparison: Comparison, label: str) -> str:
    """Returns the 95 % interval of the mean of an arm's main figure, as text."""
    column = main_column(comparison)
    found = comparison["methods"][label]["figures"].get(column.key)
    if found is None or found["interval"] is None:
        return "–"
    low, high = (f"{column.factor * bound:.{column.decimals}f}" for bound in found["interval"])
    return f"{low} to {high}"


def difference(comparison: Comparison, label: str) -> str:
    """Returns the paired difference of the main figure from the reference's, with its standard error, as text; shares in points."""
    figure = figure_of(comparison)
    row = comparison["differences"].get(main_column(comparison).key, {}).get(label)
    if row is None:
        return ""
    error = "" if row["standard_error"] is None else f" ± {figure.difference(row['standard_error'], signed=False)}"
    return f"{figure.difference(row['mean'])}{error}"


def p_value(comparison: Comparison, label: str, kind: str) -> str:
    """Returns a p-value of the main difference as text: ``p_holm``, ``p_permutation`` or ``p_t``; empty below three seeds."""
    row = comparison["differences"].get(main_column(comparison).key, {}).get(label)
    value = None if row is None or row["pairs"] < ENOUGH_SEEDS else row[kind]
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def shown_columns(comparison: Comparison) -> list[Column]:
    """Returns the columns for which at least one arm has a figure."""
    return [column for column in all_columns(comparison) if _has(comparison, column)]


def column_groups(comparison: Comparison) -> list[tuple[str, list[Column]]]:
    """Returns the columns other than the main one by the title of their table; a page is too narrow for a single table."""
    groups: dict[str, list[Column]] = {}
    for column in shown_columns(comparison):
        if column.group:
            groups.setdefault(column.group, []).append(column)
    return [
        (title if not start else f"{title}, continued", columns[start : start + WIDTH])
        for title, columns in groups.items()
        for start in range(0, len(columns), WIDTH)
    ]


def markdown(comparison: Comparison) -> str:
    """Returns the table and its conclusions as a Markdown page."""
    columns = shown_columns(comparison)
    reference = comparison["reference"]
    heads = [
        "arm",
        "n",
        *(column.heading for column in columns[:1]),
        "95 % interval",
        f"− {reference}",
        "p (Holm)",
        "p (sign flips)",
    ]
    heads += [column.heading for column in columns[1:]]
    lines = [f"# {comparison['title']}", "", *_notes(comparison), "", _row(heads), _row(["---"] * len(heads))]
    for label, entry in comparison["methods"].items():
        tested = (
            ["", ""]
            if label == reference
            else [p_value(comparison, label, kind) for kind in ("p_holm", "p_permutation")]
        )
        first = [
            label,
            str(entry["runs"]),
            *(cell(entry, column) for column in columns[:1]),
            interval(comparison, label),
        ]
        lines.append(
            _row([*first, difference(comparison, label), *tested, *(cell(entry, each) for each in columns[1:])])
        )
    lines += ["", "## Reading", "", *(f"- {sentence}" for sentence in comparison["reading"]), ""]
    return "\n".join(lines)


def _notes(comparison: Comparison) -> list[str]:
    seeds = ", ".join(map(str, comparison["seeds"]))
    return [
        f"Seeds {seeds}. {capitalised(figure_of(comparison).label)} is the leader's where a method has one, else the mean student's; mean ± standard deviation over seeds. "
        f"Differences from {comparison['reference']} are paired by seed, mean ± standard error; p-values of paired t tests with Holm's correction over the arms."
    ]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def as_csv(comparison: Comparison) -> str:
    """Returns CSV with one row for every figure of every arm: n, mean, standard deviation, interval, and the difference from the reference."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            *("arm", "figure", "runs", "mean", "standard_deviation", "interval_low", "interval_high"),
            *(
                "difference",
                "standard_error",
                "difference_low",
                "difference_high",
                "p_t",
                "p_permutation",
                "p_holm",
                "pairs",
            ),
        ]
    )
    for label, entry in comparison["methods"].items():
        for figure, found in entry["figures"].items():
            row = comparison["differences"].get(figure, {}).get(label)
            low, high = found["interval"] or ("", "")
            tested: list[Any] = [""] * 8
            if row is not None:
                keys = ("p_t", "p_permutation", "p_holm", "pairs")
                tested = [
                    row["mean"],
                    row["standard_error"],
                    *(row["interval"] or ("", "")),
                    *(row[key] for key in keys),
                ]
            writer.writerow(
                [label, figure, len(found["values"]), found["mean"], found["standard_deviation"], low, high, *tested]
            )
    return buffer.getvalue()
