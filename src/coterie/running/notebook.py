"""Text and HTML representations of a finished run, for prompts and notebooks. They are built as strings, without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coterie.errors import CoterieError
from coterie.metrics import own_ensemble, primary
from coterie.run_folder import MetricsLog, RunFolder
from coterie.tasks import UNNAMED
from coterie.tasks.figures import Figure, figures_of_run, shown_figures
from coterie.terminal import one_line

WIDTH, HEIGHT, MARGIN = 320, 120, 36  # of the curve, in pixels; the margin holds the axis labels


def as_text(path: Path, summary: Mapping[str, Any]) -> str:
    """Returns three lines: what was trained, its main figure, and the run folder."""
    name, own = primary(summary, summary["leader"])
    deployed, first = summary["deployed"], figures_of_run(summary)[0]
    said = f"{summary['split']} {first.label} of {name} {first.show(own[first.key])}"
    if len(summary["students"]) > 1:
        said += f", of the deployed student {deployed['student']} {first.show(deployed[first.key])}"
    return "\n".join([_heading(summary), said, one_line(f"run in {path}, report in {path / 'report.html'}")])


def as_html(path: Path, summary: Mapping[str, Any]) -> str:
    """Returns the same as HTML, with a table of figures, the learning curve, and a link to the report."""
    shown = shown_figures(figures_of_run(summary), summary["mean_student"].keys(), len(summary["class_names"]))
    rows = {"deployed student": summary["deployed"]}
    if len(summary["students"]) > 1:
        rows[f"deployed student ({summary['deployed']['student']})"] = rows.pop("deployed student")
        name, own = primary(summary, summary["leader"])
        rows[f"{name}, to compare by"] = own
        if ensemble := own_ensemble(summary):
            rows["ensemble, the method's"] = ensemble
    cells = "".join(
        f"<tr><th style='text-align: left'>{escape(name)}</th>{''.join(f'<td>{_value(each, values)}</td>' for each in shown)}</tr>"
        for name, values in rows.items()
    )
    heads = "".join(f"<th>{escape(each.label)}</th>" for each in shown)
    return (
        f"<div><p><b>{escape(_heading(summary))}</b></p>"
        f"<table><thead><tr><th>{escape(summary['split'])} split</th>{heads}</tr></thead><tbody>{cells}</tbody></table>"
        f"{_curve(path, summary)}"
        f'<p><a href="{escape(_address(path / "report.html"))}">report</a>, run in <code>{escape(one_line(str(path)))}</code></p></div>'
    )


def _heading(summary: Mapping[str, Any]) -> str:
    return one_line(f"{summary['method']} on {summary['data']}: {summary['network']}, {summary['epochs']} epochs")


def _value(figure: Figure, values: Mapping[str, float]) -> str:
    return figure.show(values[figure.key]) if figure.key in values else "–"


def _address(path: Path) -> str:
    """Returns the URL of a path: a relative path stays relative to the working directory, which is the notebook's; an absolute one becomes a file URL."""
    return path.resolve().as_uri() if path.is_absolute() else quote(path.as_posix())


def _curve(path: Path, summary: Mapping[str, Any]) -> str:
    """Returns the first validation figure over epochs as an SVG element; empty with fewer than two evaluations, or if the metrics cannot be read."""
    try:
        rows = MetricsLog(RunFolder(path).metrics, summary.get("task", UNNAMED)).rows()
    except CoterieError:  # the figures above do not depend on it
        return ""
    evaluated = [row for row in rows if row["split"] == "validation"]
    if len(evaluated) < 2:
        return ""
    first = figures_of_run(summary)[0]
    values = [primary(row, summary["leader"]).figures[first.key] for row in evaluated]
    name = primary(evaluated[-1], summary["leader"]).name
    description = f"validation {first.label} of {name} over epochs"
    return _line([row["epoch"] + 1 for row in evaluated], values, description, ".0%" if first.is_share else ".3g")


def _line(epochs: Sequence[int], values: Sequence[float], description: str, form: str) -> str:
    low, high = min(values), max(values)
    span, length = (high - low) or 1.0, (epochs[-1] - epochs[0]) or 1
    right, bottom = WIDTH - 8, HEIGHT - 20
    points = " ".join(
        f"{MARGIN + (right - MARGIN) * (epoch - epochs[0]) / length:.1f},{bottom - (bottom - 10) * (value - low) / span:.1f}"
        for epoch, value in zip(epochs, values, strict=True)
    )
    label = 'font-size="11" fill="currentColor" opacity="0.7"'
    return (
        f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f"<title>{escape(description)}</title>"
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
        f'<text x="0" y="14" {label}>{high:{form}}</text><text x="0" y="{bottom}" {label}>{low:{form}}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 4}" {label}>{epochs[0]}</text>'
        f'<text x="{right}" y="{HEIGHT - 4}" text-anchor="end" {label}>epoch {epochs[-1]}</text></svg>'
        f"<p>{escape(description)}</p>"
    )
