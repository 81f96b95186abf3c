"""OKDMDE against its controls on CIFAR-100, at a size for two CPU cores; and the forms of its diversity loss.

ResNet-8 on 16x16 images, with few images per class and many epochs, so that the baseline over-fits: if it under-fits,
the experiment says nothing about distillation. All arms share data order, augmentation, steps and the initial weights of
student 0. Forms and weights of the diversity loss are judged on the validation split; the test table is read once.

    python -m benchmarks.images.okdmde_cifar100 --root FOLDER [--seeds 5]     # runs what is missing, seed by seed
    python -m benchmarks.images.okdmde_cifar100 --table                       # writes the table from what there is

FOLDER holds CIFAR-100 in any form that `data.root` accepts. A stop loses at most one run; every round is one seed of all arms.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import shared
from benchmarks.fixed import fixed
from benchmarks.shared import script_parser

RESULTS = shared.RESULTS / "okdmde_cifar100"
ROWS = RESULTS / "runs.jsonl"

SETTINGS: dict[str, Any] = {
    "data": {"name": "cifar100", "image_size": 16, "train_limit": 2500},
    "network": {"name": "resnet8_cifar"},
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "warmup_epochs": 2},
    "training": {"epochs": 60, "batch_size": 64, "device": "cpu", "evaluate_every": 20},
}
OKDMDE: dict[str, Any] = {"name": "okdmde", "diversity_weight": 0.0, "ensemble_gradient": "all"}
# The first arms answer the main question, the others choose the form of the diversity loss.
ARMS: dict[str, dict[str, Any]] = {
    "baseline": {"name": "baseline"},
    "independent": {"name": "independent"},
    "OKDMDE, no CD": OKDMDE,
    "OKDMDE, frobenius 5e-8 (published)": {**OKDMDE, "diversity": "frobenius", "diversity_weight": 5e-8},
    "OKDMDE, coincident_error 1": {**OKDMDE, "diversity": "coincident_error", "diversity_weight": 1.0},
    "OKDMDE, gram 1": {**OKDMDE, "diversity": "gram", "diversity_weight": 1.0},
    "OKDMDE, cosine 1": {**OKDMDE, "diversity": "cosine", "diversity_weight": 1.0},
    "OKDMDE, frobenius 1e-2": {**OKDMDE, "diversity": "frobenius", "diversity_weight": 1e-2},
    "OKDMDE, no CD, gate": {**OKDMDE, "ensemble_gradient": "gate"},
}
# Arms on the test split: the controls, and OKDMDE without CD, as published, and with the form chosen on validation.
MAIN = [*list(ARMS)[:4], "OKDMDE, gram 1"]


def read_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.is_file() else []


def run_arm(arm: str, seed: int, root: Path) -> dict[str, Any]:
    """Train one arm and return the figures for the tables."""
    import coterie

    settings = {**SETTINGS, "data": {**SETTINGS["data"], "root": str(root)}}
    folder = Path(tempfile.mkdtemp(prefix="coterie-benchmark-"))
    try:
        summary = coterie.train(fixed(settings), method=ARMS[arm], seed=seed, output=folder / "run", quiet=True).summary
    finally:
        shutil.rmtree(folder)
    keep = ("deployed", "mean_student", "ensemble", "diversity", "statistics", "train_top1", "seconds", "parameters")
    row = {key: summary[key] for key in keep}
    row["validation"] = {key: summary["validation"][key] for key in keep[:4]}
    return {"arm": arm, "seed": seed, **row}


def run_rounds(root: Path, seeds: int) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in range(1, seeds + 1):
        for arm in ARMS:
            if any(row["arm"] == arm and row["seed"] == seed for row in read_rows()):
                continue
            row = run_arm(arm, seed, root)
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                f"seed {seed}  {arm:<36} test {row['mean_student']['top1']:.2%}  {row['seconds']['total']:.0f} s",
                flush=True,
            )


def mean_and_error(values: list[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return statistics.mean(values), error


def look_up(row: dict[str, Any], path: str) -> float:
    value: Any = row
    for key in path.split("."):
        value = value[key]
    return float(value)


def cell(rows: dict[int, dict[str, Any]], path: str, against: dict[int, dict[str, Any]] | None, scale: float) -> str:
    """Format the mean ± standard error over seeds; with ``against``, those of the paired difference."""
    seeds = [seed for seed in rows if against is None or seed in against]
    values = [scale * (look_up(rows[s], path) - (look_up(against[s], path) if against else 0.0)) for s in seeds]
    mean, error = mean_and_error(values)
    return f"{mean:+.2f} ± {error:.2f}" if against else f"{mean:.2f} ± {error:.2f}"


def table(
    title: str, arms: dict[str, dict[int, dict[str, Any]]], columns: list[tuple[str, str, str | None, float]]
) -> str:
    lines = [f"## {title}", "", "| arm | seeds | " + " | ".join(name for name, *_ in columns) + " |"]
    lines.append("|---|---|" + "---|" * len(columns))
    for arm, rows in arms.items():
        cells = []
        for _, path, reference, scale in columns:
            against = arms.get(reference) if reference else None
            try:
                cells.append("" if reference == arm else cell(rows, path, against, scale))
            except KeyError:  # one student has no diversity
                cells.append("")
        lines.append(f"| {arm} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_table() -> None:
    arms: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in ARMS}
    for row in read_rows():
        arms[row["arm"]][row["seed"]] = row
    arms = {arm: rows for arm, rows in arms.items() if rows}
    main = {arm: rows for arm, rows in arms.items() if arm in MAIN}
    no_cd = "OKDMDE, no CD"
    parts = [
        "# OKDMDE on CIFAR-100 at 16x16, 2,500 training images, ResNet-8",
        "",
        f"Made by `benchmarks/images/okdmde_cifar100.py --table`. Settings: `{json.dumps(SETTINGS)}`. Four students, split before `layer3`. "
        "Mean ± standard error over seeds, top-1 and differences in percentage points, last epoch. "
        "The mean student is the figure to compare with the baseline: the deployed one is chosen by validation among four.",
        "",
        table(
            "Test split",
            main,
            [
                ("train top-1", "train_top1", None, 100),
                ("mean student", "mean_student.top1", None, 100),
                ("deployed", "deployed.top1", None, 100),
                ("ensemble (own)", "ensemble.method.top1", None, 100),
                ("ensemble (mean probability)", "ensemble.mean_probability.top1", None, 100),
                ("mean student NLL", "mean_student.nll", None, 1),
                ("ensemble NLL (mean probability)", "ensemble.mean_probability.nll", None, 1),
                ("distance", "diversity.distance", None, 1),
                ("disagreement", "diversity.disagreement", None, 100),
            ],
        ),
        table(
            "Test split, paired differences",
            main,
            [
                ("mean student − baseline", "mean_student.top1", "baseline", 100),
                ("deployed − baseline", "deployed.top1", "baseline", 100),
                ("mean student's NLL − baseline", "mean_student.nll", "baseline", 1),
                ("mean student − independent", "mean_student.top1", "independent", 100),
                ("ensemble − independent", "ensemble.method.top1", "independent", 100),
                ("disagreement − independent", "diversity.disagreement", "independent", 100),
            ],
        ),
        table(
            "Forms of the diversity loss, validation split (paired differences from no CD)",
            {arm: rows for arm, rows in arms.items() if arm.startswith("OKDMDE")},
            [
                ("mean student", "validation.mean_student.top1", None, 100),
                ("mean student − no CD", "validation.mean_student.top1", no_cd, 100),
                ("ensemble − no CD", "validation.ensemble.method.top1", no_cd, 100),
                ("ensemble NLL − no CD", "validation.ensemble.method.nll", no_cd, 1),
                ("mean-probability NLL − no CD", "validation.ensemble.mean_probability.nll", no_cd, 1),
                ("mean student's NLL − no CD", "validation.mean_student.nll", no_cd, 1),
                ("disagreement − no CD", "validation.diversity.disagreement", no_cd, 100),
                ("attention entropy", "statistics.attention_entropy", None, 1),
            ],
        ),
        table(
            "Does the attention earn anything? Own ensemble against mean probability, validation split",
            {
                arm: {
                    s: {
                        "d": look_up(r, "validation.ensemble.method.top1")
                        - look_up(r, "validation.ensemble.mean_probability.top1"),
                        "n": look_up(r, "validation.ensemble.method.nll")
                        - look_up(r, "validation.ensemble.mean_probability.nll"),
                    }
                    for s, r in rows.items()
                }
                for arm, rows in arms.items()
                if arm.startswith("OKDMDE")
            },
            [("top-1", "d", None, 100), ("NLL", "n", None, 1)],
        ),
    ]
    (RESULTS / "table.md").write_text("\n".join(parts))
    print("\n".join(parts))


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.root is None:
            parser.error("--root is needed to train")
        run_rounds(arguments.root, arguments.seeds)
    write_table()


if __name__ == "__main__":
    main()
