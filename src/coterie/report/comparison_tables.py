"""The tables of a comparison: Markdown for a README, CSV for a spreadsheet, rows for the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from coterie.metrics.statistics import ENOUGH_SEEDS

Comparison = Mapping[str, Any]


class Column(NamedTuple):
    """A figure's column: key in ``comparison.json``, heading, factor, decimals, whether the spread is shown.

    ``group`` is the title of the page's table that it stands in; the first column stands in the main one.
    """

    key: str
    heading: str
    factor: float
    decimals: int
    spread: bool = False
    group: str = ""


ACCURACY, REST = "Other accuracies", "Likelihood, calibration, diversity and cost"
COLUMNS = (
    Column("primary.top1", "top-1 %", 100, 2, True),
    Column("deployed.top1", "deployed %", 100, 2, group=ACCURACY),
    Column("ensemble_mean_probability.top1", "ensemble, mean probability %", 100, 2, group=ACCURACY),
    Column("ensemble_mean_logit.top1", "ensemble, mean logit %", 100, 2, group=ACCURACY),
    Column("ensemble_method.top1", "ensemble, own %", 100, 2, group=ACCURACY),
    Column("train_top1", "train top-1 %", 100, 1, group=ACCURACY),
    Column("validation.primary.top1", "validation top-1 %", 100, 2, group=ACCURACY),
    Column("primary.nll", "NLL", 1, 3, group=REST),
    Column("primary.ece", "ECE", 1, 3, group=REST),
    Column("diversity.disagreement", "disagreement %", 100, 1, group=REST),
    Column("diversity.distance", "distance", 1, 3, group=REST),
    Column("seconds_per_epoch", "s / epoch", 1, 2, group=REST),
    Column("parameters.trained", "parameters trained", 1, 0, group=REST),
    Column("parameters.deployed", "deployed", 1, 0, group=REST),
)
MAIN = "primary.top1"


def cell(entry: Mapping[str, Any], column: Column) -> str:
    """An arm's figure as text; a dash where it has none."""
    found = entry["figures"].get(column.key)
    if found is None:
        return "–"
    text = f"{column.factor * found['mean']:,.{column.decimals}f}"
    if column.spread and found["standard_deviation"] is not None:
        text += f" ± {column.factor * found['standard_deviation']:.{column.decimals}f}"
    return text


def interval(entry: Mapping[str, Any]) -> str:
    """95 % interval of the mean of the main figure, in percent."""
    found = entry["figures"].get(MAIN)
    if found is None or found["interval"] is None:
        return "–"
    low, high = found["interval"]
    return f"{100 * low:.2f} to {100 * high:.2f}"


def difference(comparison: Comparison, label: str, figure: str = MAIN) -> str:
    """Paired difference from the reference, with its standard error, in points."""
    row = comparison["differences"].get(figure, {}).get(label)
    if row is None:
        return ""
    error = "" if row["standard_error"] is None else f" ± {100 * row['standard_error']:.2f}"
    return f"{100 * row['mean']:+.2f}{error}"


def p_value(comparison: Comparison, label: str, kind: str) -> str:
    """A p-value of the main difference, ``p_holm``, ``p_permutation`` or ``p_t``; none of fewer than three seeds."""
    row = comparison["differences"].get(MAIN, {}).get(label)
    value = None if row is None or row["pairs"] < ENOUGH_SEEDS else row[kind]
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def shown_columns(comparison: Comparison) -> list[Column]:
    """Columns for which at least one arm has a figure."""
    return [
        column for column in COLUMNS if any(column.key in entry["figures"] for entry in comparison["methods"].values())
    ]


def column_groups(comparison: Comparison) -> list[tuple[str, list[Column]]]:
    """The columns beside the main one under the titles of their tables; a page is too narrow for all of them in one."""
    groups: dict[str, list[Column]] = {}
    for column in shown_columns(comparison):
        if column.group:
            groups.setdefault(column.group, []).append(column)
    return list(groups.items())


def markdown(comparison: Comparison) -> str:
    """The table and its reading as a Markdown page."""
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
        first = [label, str(entry["runs"]), *(cell(entry, column) for column in columns[:1]), interval(entry)]
        lines.append(
            _row([*first, difference(comparison, label), *tested, *(cell(entry, each) for each in columns[1:])])
        )
    lines += ["", "## Reading", "", *(f"- {sentence}" for sentence in comparison["reading"]), ""]
    return "\n".join(lines)


def _notes(comparison: Comparison) -> list[str]:
    seeds = ", ".join(map(str, comparison["seeds"]))
    return [
        f"Seeds {seeds}. Top-1 is the leader's where a method has one, else the mean student's; mean ± standard deviation over seeds. "
        f"Differences from {comparison['reference']} are paired by seed, mean ± standard error; p-values of paired t tests with Holm's correction over the arms."
    ]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def as_csv(comparison: Comparison) -> str:
    """Every figure of every arm, one a row: mean, standard deviation, interval, n, and the difference from the reference."""
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
