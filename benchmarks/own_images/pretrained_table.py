"""The tables of benchmarks/own_images/pretrained.py: figures of every arm, paired differences, and choices made on validation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import shared
from benchmarks.own_images.pretrained_arms import ARMS, BATCH, CHOICES, EPOCHS, FIRST_CHOICE, SETTINGS
from coterie.metrics.statistics import paired_difference, spread

RESULTS = shared.RESULTS / "own_images"
SOURCES = {
    "ours": "resnet8_cifar from 80 other classes of CIFAR-100, 16 pixels",
    "imagenet": "tf_efficientnet_lite0 from ImageNet, 64 pixels",
}
Cells = dict[tuple[int, int], dict[str, Any]]  # (images a class, seed) -> figures


def read_cells(work: Path, source: str) -> dict[str, Cells]:
    """Read the figures of all finished cells, by the label of the arm."""
    found: dict[str, Cells] = {}
    names = {name.replace(" ", "_").replace(",", ""): name for name in (*ARMS, *CHOICES[source], "teacher")}
    for path in sorted((work / source).glob("images*/seed*/*.json")):
        key = int(path.parts[-3].removeprefix("images")), int(path.parts[-2].removeprefix("seed"))
        if path.stem in names:
            found.setdefault(names[path.stem], {})[key] = json.loads(path.read_text())
    return found


def value(cell: Mapping[str, Any], figure: str) -> float:
    """Return a figure by its dotted path; accuracies in %."""
    found: Any = cell
    for part in figure.split("."):
        found = found[part]
    return float(found) * (100 if figure.endswith("top1") else 1)


def mean_of(cells: Iterable[Mapping[str, Any]], figure: str, digits: int = 1) -> str:
    """Format the mean and its standard error."""
    values = [value(cell, figure) for cell in cells]
    if not values:
        return ""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{spread(values).mean:.{digits}f} ± {(spread(values).standard_deviation or 0.0) / len(values) ** 0.5:.{digits}f}"


def difference_of(cells: Cells, reference: Cells, figure: str, sizes: Iterable[int]) -> str:
    """Format the mean of paired differences, its standard error, and the p-value of a paired t test."""
    wanted = set(sizes)
    keys = sorted(key for key in cells.keys() & reference.keys() if key[0] in wanted)
    if not keys or cells is reference:
        return ""
    found = paired_difference(
        [value(cells[key], figure) for key in keys], [value(reference[key], figure) for key in keys]
    )
    error = f" ± {found.standard_error:.2f}" if found.standard_error is not None else ""
    return f"{found.mean:+.2f}{error}" + (f" (p {found.p_t:.3f})" if found.p_t is not None else "")


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), ""]


def source_tables(source: str, found: dict[str, Cells]) -> list[str]:
    """Make the tables of accuracy by images per class, of differences over all sizes, and of properties of the groups."""
    arms = {name: cells for name, cells in found.items() if name in ARMS or name == "teacher"}
    arms = {name: {key: cell for key, cell in cells.items() if key[1] < FIRST_CHOICE} for name, cells in arms.items()}
    arms = {name: arms[name] for name in (*ARMS, "teacher") if arms.get(name)}
    baseline, long = arms.get("baseline", {}), arms.get("baseline_long", {})
    sizes = sorted({key[0] for key in baseline})
    accuracy, pooled, inside = [], [], []
    for name, cells in arms.items():
        row = [name]
        for size in sizes:
            row.append(mean_of((cell for key, cell in cells.items() if key[0] == size), "test.top1"))
            row.append(difference_of(cells, baseline, "test.top1", [size]))
        accuracy.append(row)
        pooled.append(
            [
                name,
                *(
                    difference_of(cells, reference, figure, sizes)
                    for figure in ("test.top1", "test.nll")
                    for reference in (baseline, long)
                ),
                str(len(cells)),
            ]
        )
        inside.append(
            [
                name,
                *(mean_of(cells.values(), figure) for figure in ("train_top1", "test.top1", "test.ensemble_top1")),
                mean_of(cells.values(), "test.nll", 2),
                "" if name in {"baseline", "baseline_long", "kd", "teacher"} else mean_of(cells.values(), "test.diversity.disagreement", 3),
            ]
        )  # fmt: skip
    head = ["arm"]
    for size in sizes:
        seeds = len({key[1] for key in baseline if key[0] == size})
        head += [f"{size} images a class, {seeds} seed{'s' * (seeds > 1)}", "less baseline"]
    return [
        f"## {SOURCES[source]}",
        "",
        f"Epochs {', '.join(f'{epochs} ({size} images a class)' for size, epochs in EPOCHS[source].items())}; batch {BATCH[source]}; {_settings(source)}.",
        "",
        "Test top-1 in %, mean ± standard error over seeds, and paired differences from the baseline.",
        "",
        *table(head, accuracy),
        "Over all sizes: mean of paired differences ± standard error (p of a paired t test, not corrected for the number of arms).",
        "",
        *table(["arm", "top-1 less baseline", "top-1 less baseline_long", "NLL less baseline", "NLL less baseline_long", "pairs"], pooled),
        "Inside, over all sizes: top-1 on training images without augmentation, of the student, of the students' mean probability, NLL, share of",
        "test images on which two students differ.",
        "",
        *table(["arm", "train", "student", "ensemble", "NLL", "disagreement"], inside),
    ]  # fmt: skip


def _settings(source: str) -> str:
    optimizer = SETTINGS[source]["optimizer"]
    return f"{optimizer['name']} at {optimizer['learning_rate']:g}, weight decay {optimizer['weight_decay']:g}, cosine"


def choice_table(source: str, found: dict[str, Cells]) -> list[str]:
    """List what was tried on validation; no value comes from test images."""
    tried = {
        name: {key: cell for key, cell in cells.items() if key[1] >= FIRST_CHOICE} for name, cells in found.items()
    }
    tried = {name: tried[name] for name in CHOICES[source] if tried.get(name)}
    if not tried:
        return []
    reference = tried.get("baseline @1", {})
    sizes = sorted({key[0] for cells in tried.values() for key in cells})
    rows = [
        [
            name,
            *(mean_of((cell for key, cell in cells.items() if key[0] == size), "validation.top1") for size in sizes),
            difference_of(cells, reference, "validation.top1", sizes),
            mean_of(cells.values(), "validation.nll", 2),
            "" if len(cells) == 0 or "baseline" in name else mean_of(cells.values(), "validation.diversity.disagreement", 3),
            str(len(cells)),
        ]
        for name, cells in tried.items()
    ]  # fmt: skip
    head = ["arm", *(f"{size} images a class" for size in sizes), "less baseline @1", "NLL", "disagreement", "runs"]
    return ["Tried on validation, with other seeds (top-1 in %):", "", *table(head, rows)]


def write_tables(work: Path) -> None:
    """Write the results so far to benchmarks/results/own_images."""
    raw: dict[str, Any] = {}
    lines = [
        "# A pretrained network, few pictures: does a group help?",
        "",
        "Fine-tuning on 20 classes of CIFAR-100; benchmarks/own_images/pretrained.py says what is equal, pretrained_arms.py has every setting.",
        "`baseline_long` has the group's operations, `independent` is the group without distillation. Figures of OKDDip are its leader's, of the",
        "others the mean student's: nothing is picked among students. Every seed draws training images of its own; 2,000 test images.",
        "",
    ]
    for source in SOURCES:
        found = read_cells(work, source)
        if not found:
            continue
        lines += [*source_tables(source, found), *choice_table(source, found)]
        raw[source] = {
            f"{name}, {size} images, seed {seed}": cell
            for name, cells in found.items()
            for (size, seed), cell in cells.items()
        }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "pretrained.md").write_text("\n".join(lines).rstrip() + "\n")
    (RESULTS / "pretrained.json").write_text(json.dumps(raw, indent=1) + "\n")
