from __future__ import annotations

import random

import pytest

FIGURES = ("top1", "top5", "nll", "brier", "ece")


def run_of(label: str, seed: int, level: float, students: int = 4) -> dict:
    """A finished run as ``collect`` reads it, with plausible figures."""
    noise = random.Random(f"{label}{seed}").gauss(0, 0.003)
    top1 = level + 0.002 * seed + noise
    figures = {
        "train_top1": 0.7,
        "seconds_per_epoch": 0.5 * students,
        "parameters.trained": 1e5,
        "parameters.deployed": 8e4,
    }
    for name in (
        "primary",
        "deployed",
        "mean_student",
        "ensemble_mean_probability",
        "ensemble_mean_logit",
        "ensemble_method",
    ):
        gain = 0.01 if name.startswith("ensemble") and students > 1 else 0.0
        figures |= {f"{name}.{key}": top1 + gain for key in FIGURES}
    if students > 1:
        figures |= {f"diversity.{key}": 0.4 + 10 * noise for key in ("distance", "disagreement", "kl", "double_fault")}
    curves = {
        "epoch": [1, 2, 3],
        "mean_student_top1": [0.1, 0.15, top1],
        "ensemble_top1": [0.1, 0.2, top1],
        "train_epoch": [1],
        "train_loss": [2.0],
    }
    return {
        "label": label,
        "seed": seed,
        "folder": f"runs/{label}/seed{seed}",
        "status": "finished",
        "about": {},
        "figures": figures,
        "curves": curves,
    }


@pytest.fixture
def make_runs():
    """``make_runs({label: level}, seeds)``; the arm ``baseline`` has one student."""

    def build(levels: dict[str, float], seeds: int) -> list[dict]:
        return [
            run_of(label, seed, level, 1 if label == "baseline" else 4)
            for seed in range(seeds)
            for label, level in levels.items()
        ]

    return build
