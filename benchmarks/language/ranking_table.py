"""The tables of benchmarks/language/ranking.py: figures of every arm over seeds, and paired differences at equal steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import shared
from benchmarks.language.ranking_setups import ARMS, CHOICE_SEED
from coterie.metrics.statistics import paired_difference, spread

RESULTS = shared.RESULTS / "language_ranking"
TITLES = {"small": "Small: teacher and student trained here", "real": "Real: SmolLM2-135M-Instruct as the teacher"}
SHOWN = {
    "mor_3": "MOR@3",
    "mor_5": "MOR@5",
    "mor_10": "MOR@10",
    "cr_1": "CR@1",
    "cr_3": "CR@3",
    "cr_5": "CR@5",
    "top1": "top-1",
    "perplexity": "perplexity",
}
# Reference of each arm; KL by default.
REFERENCES = {"jsd_rank5": ["jsd"], "rkl_rank5": ["rkl"], "kl_rank5": ["kl", "kl_double_rate", "kl_pearson5"]}
RANKED = ("kl_rank5", "kl_rank10")  # arms whose MOR should be above KL's on every seed
# RLKD, table 7: 5,000 held-out slices, 2,000 steps, one run each.
PUBLISHED = {
    "kl": {"mor_5": 70.84, "mor_10": 70.03, "cr_1": 78.46, "cr_3": 22.31, "cr_5": 3.95, "perplexity": 10.22},
    "kl_rank": {"mor_5": 72.39, "mor_10": 71.79, "cr_1": 78.44, "cr_3": 23.80, "cr_5": 4.58, "perplexity": 10.34},
}
LARGE = 1e5  # from which a perplexity says only that the student is no language model
Cells = dict[int, dict[str, Any]]  # seed -> figures on test


class Contrast(NamedTuple):
    """Difference of an arm and its reference, over the seeds that both have."""

    mean: float
    standard_error: float | None
    agreeing: int  # number of seeds whose difference has the sign of the mean
    seeds: int

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {number(self.standard_error)}"
        return f"{number(self.mean, '+')}{error} ({self.agreeing}/{self.seeds})"


def number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}" if abs(value) < LARGE else f"{value:{sign}.0e}"


def read_cells(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Read the results of finished arms, by label and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("seed*/*.json")):
        seed = int(path.parent.name.removeprefix("seed"))
        found.setdefault(path.stem, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    return found


def value(figures: Mapping[str, float], name: str) -> float:
    """Return a figure, shares in %, the perplexity unchanged."""
    return figures[name] * (1 if name == "perplexity" else 100)


def mean_of(cells: Cells, name: str) -> str:
    """Format the mean and its standard error."""
    values = [value(figures, name) for figures in cells.values()]
    found = spread(values)
    if found.standard_deviation is None:
        return number(found.mean)
    return f"{number(found.mean)} ± {number(found.standard_deviation / len(values) ** 0.5)}"


def contrast(cells: Cells, reference: Cells, name: str) -> Contrast | None:
    """Return the difference paired by seed; None without common seeds."""
    seeds = sorted(cells.keys() & reference.keys())
    if not seeds:
        return None
    pairs = [(value(cells[seed], name), value(reference[seed], name)) for seed in seeds]
    found = paired_difference([own for own, _ in pairs], [other for _, other in pairs])
    agreeing = sum((own - other) * found.mean > 0 for own, other in pairs)
    return Contrast(found.mean, found.standard_error, agreeing, len(seeds))


def verdict(arms: Mapping[str, Cells]) -> list[str]:
    """Say whether the ranking loss reaches its aim: MOR@5 and MOR@10 above KL's on every seed, at equal steps."""
    lines = []
    for name in RANKED:
        if name not in arms or "kl" not in arms:
            continue
        found = [contrast(arms[name], arms["kl"], figure) for figure in ("mor_5", "mor_10")]
        works = all(each is not None and each.mean > 0 and each.agreeing == each.seeds for each in found)
        lines.append(
            f"`{name}`: MOR@5 and MOR@10 above `kl` on every seed: **{'yes' if works else 'no'}** "
            f"({found[0]} and {found[1]} points; perplexity {contrast(arms[name], arms['kl'], 'perplexity')})."
        )
    return lines


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), ""]


def setup_lines(ground: Mapping[str, Any]) -> list[str]:
    setup, parts = ground["setup"], ground["parameters"]
    tokens, documents = ground["tokens"], ground["documents"]
    splits = ", ".join(f"{name} {documents[name]:,} ({tokens[name]:,} tokens)" for name in documents)
    teacher = ground["teacher"]["test"]
    return [
        f"Text: {ground['text']}; documents {splits}. Vocabulary {ground['vocabulary']:,}. Teacher {parts['teacher']:,} parameters"
        + (f", {setup['teacher_steps']:,} steps of cross-entropy at {setup['teacher_rate']:g}" if setup["teacher"] else "")
        + f" (test perplexity {teacher['perplexity']:.2f}, top-1 {teacher['top1']:.1%}); student {parts['student']:,}, {setup['start_steps']} steps of cross-entropy at {setup['start_rate']:g} before the arms part (`start`).",
        f"Arms: {setup['steps']} steps of {setup['batch_size']} rows of {setup['block_length']} tokens ({setup['steps'] * setup['batch_size'] * setup['block_length']:,} tokens of {ground['arm_rows']:,} rows), AdamW at {setup['rate']:g}, cosine to 0, gradients clipped at 1, float32, one thread; the teacher's logits are read from a file.",
        f"Figures: {ground['evaluated']['test']} rows of the test split, last step.",
        "",
    ]  # fmt: skip


def choice_lines(cells: Mapping[str, Mapping[int, Any]]) -> list[str]:
    """List what was tried on validation; no value comes from test text."""
    rows = []
    for label, found in cells.items():
        if "@" in label and CHOICE_SEED in found:
            figures = found[CHOICE_SEED]["validation"]
            shown = ("mor_5", "mor_10", "cr_1", "perplexity")
            rows.append([label.replace("@", " at "), *(f"{value(figures, name):.2f}" for name in shown)])
    if not rows:
        return []
    head = ["arm and rate", "MOR@5", "MOR@10", "CR@1", "perplexity"]
    return [f"Rates tried on validation, seed {CHOICE_SEED}:", "", *table(head, rows)]


def setup_tables(name: str, ground: Mapping[str, Any], cells: Mapping[str, Any], seconds: Mapping[str, float]) -> list[str]:  # fmt: skip
    arms: dict[str, Cells] = {}
    for arm in ("start", *ARMS):
        found = {seed: cell["test"] for seed, cell in cells.get(arm, {}).items() if seed != CHOICE_SEED}
        if found:
            arms[arm] = found
    rows, differences = [], []
    for arm, found in arms.items():
        time = f"{seconds[arm] / seconds['ce']:.2f}" if arm in seconds else ""
        rows.append([f"`{arm}`", *(mean_of(found, figure) for figure in SHOWN), time, str(len(found))])
        for reference in REFERENCES.get(arm, ["kl"]):
            if arm in ("start", reference) or reference not in arms:
                continue
            line = [str(contrast(found, arms[reference], figure) or "") for figure in SHOWN]
            differences.append([f"`{arm}` less `{reference}`", *line])
    lines = [f"## {TITLES[name]}", "", *setup_lines(ground)]
    lines += table(["arm", *SHOWN.values(), "time of a step over `ce`", "seeds"], rows)
    if "teacher" in seconds:
        lines += [f"The teacher's pass over a batch takes {seconds['teacher'] / seconds['ce']:.2f} of a step of `ce`; it is in no arm's time, since its logits are remembered.", ""]  # fmt: skip
    lines += ["Paired differences at equal steps, mean ± standard error (seeds that have the mean's sign):", ""]
    lines += table(["contrast", *SHOWN.values()], differences)
    lines += [*(line for each in verdict(arms) for line in (each, "")), *choice_lines(cells)]
    return lines


def published_lines() -> list[str]:
    rows = [
        [f"`{name}`, published", *(f"{figures[key]:.2f}" if key in figures else "" for key in SHOWN)]
        for name, figures in PUBLISHED.items()
    ]
    return ["## Published", "", "RLKD (COLING 2025), table 7: Llama-2-7B and TinyLlama-1.1B, held-out text, 2,000 steps, one run each.", "", *table(["arm", *SHOWN.values()], rows)]  # fmt: skip


def read_results(runs: Path) -> dict[str, Any]:
    """Read the results so far, by setup; a setup without runs in the folder keeps the published results."""
    published = RESULTS / "results.json"
    found: dict[str, Any] = json.loads(published.read_text(encoding="utf-8")) if published.is_file() else {}
    for setup in found.values():
        setup["cells"] = {arm: {int(seed): cell for seed, cell in each.items()} for arm, each in setup["cells"].items()}
    for name in TITLES:
        folder = runs / name
        cells = read_cells(folder)
        if cells:
            timed = folder / "seconds.json"
            found[name] = {
                "ground": json.loads((folder / "ground.json").read_text(encoding="utf-8")),
                "seconds": json.loads(timed.read_text(encoding="utf-8")) if timed.is_file() else {},
                "cells": cells,
            }
    return {name: found[name] for name in TITLES if name in found}


def write_tables(runs: Path) -> None:
    """Write the results so far to benchmarks/results/language_ranking."""
    lines = [
        "# A ranking loss for language models",
        "",
        "Made by `benchmarks/language/ranking.py`, which says what is equal among arms; ranking_setups.py has every setting. In %, perplexity apart;",
        "mean ± standard error over seeds. MOR@k: the share that the two models' k likeliest next tokens have in common; CR@k: of positions at which these are the same in order; both",
        "with the teacher. top-1: of positions at which the likeliest token is the one that comes. `kl_rank5`: KL and twice the ranking loss of k = 5; `kl_pearson5`: with Pearson's",
        "correlation of logits in the place of that of ranks; `kl_double_rate`: KL at twice the rate; `rank10`: no divergence.",
        "",
    ]
    raw = read_results(runs)
    for name, setup in raw.items():
        lines += setup_tables(name, setup["ground"], setup["cells"], setup["seconds"])
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*lines, *published_lines()]).rstrip() + "\n"
    (RESULTS / "table.md").write_text(text, encoding="utf-8")
    (RESULTS / "results.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
