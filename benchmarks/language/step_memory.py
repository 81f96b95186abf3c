"""Memory and time of a language model's training step: with logits in chunks of positions, and with the logits of all positions.

Every arm runs in its own process, on one thread: forward, backward and AdamW's step on one batch. Peak memory is the growth of the process's maximum resident size
over the step, once networks and batch exist; time is its CPU time. "Body alone" has the same networks and a loss of the hidden states: its cost
does not belong to the loss. Each arm is measured ``--repeats`` times, in turn with the others; the table gives the largest memory and the least time.

    python -m benchmarks.language.step_memory [--repeats 1] [--afresh]

Writes benchmarks/results/language_step_memory.json and .md; arms in the .json file are not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.shared import RESULTS, child, script_parser

VOCABULARY, WIDTH, LAYERS = 49152, 576, 1  # SmolLM2-135M's, except for its 30 layers
LENGTH = 1024
METHODS = {"kd": (1, 1), "rlkd": (1, 1), "dml": (2, 0)}  # students, teachers
PARTS, WHOLE, BODY = "in parts", "all logits", "body alone"
# All logits of two students at 4,096 positions would take tens of gigabytes. The body of rlkd is that of kd.
ARMS = [
    *(("kd", 4, way) for way in (BODY, PARTS, WHOLE)),
    *(("rlkd", 4, way) for way in (PARTS, WHOLE)),
    *(("dml", 1, way) for way in (BODY, PARTS, WHOLE)),
    *(("dml", 4, way) for way in (BODY, PARTS)),
]


def network(seed: int) -> Any:
    from coterie.tasks.language.networks import load_causal_lm

    sizes = {"hidden_size": WIDTH, "intermediate_size": 1536, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": LENGTH}
    return load_causal_lm({"model_type": "llama", "vocab_size": VOCABULARY, **sizes, **heads}, seed=seed)


def measure(name: str, rows: int, way: str) -> dict[str, Any]:
    import torch

    from coterie.methods import create_method
    from coterie.networks.teacher import Teacher, Teachers
    from coterie.tasks.language.causal_lm import CausalLM, LanguageGroup, example_batch
    from coterie.tasks.language.data.rows import label_positions, label_targets

    torch.set_num_threads(1)
    students, teachers = METHODS[name]
    group = LanguageGroup([CausalLM(network(seed)) for seed in range(students)])
    group.whole_logits = math.inf if way == WHOLE else 0
    taught = [Teacher(CausalLM(network(9)), example_batch(), name="teacher", in_parts=True) for _ in range(teachers)]
    method = create_method(name, group, **({"teachers": Teachers(taught)} if taught else {})).train()
    optimizer = torch.optim.AdamW(group.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (rows, LENGTH + 1), generator=generator)  # the last one is only predicted
    positions = label_positions(tokens)[:, :-1].flatten().nonzero().squeeze(1)
    targets = label_targets(tokens)
    batch = {"input_ids": tokens[:, :-1].contiguous(), "positions": positions}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    if way == BODY:
        for teacher in taught:
            with torch.no_grad():
                teacher.body.hidden(batch)
        terms = {"hidden": sum(each.hidden.square().mean() for each in group.projections(batch))}
    else:
        terms = method(batch, targets)
    total = torch.stack(tuple(terms.values())).sum()
    total.backward()
    norms = [each.grad.norm() for each in group.parameters() if each.grad is not None]
    optimizer.step()
    seconds = time.process_time() - began
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    gradient = torch.stack(norms).norm().item()
    return {
        "positions": len(positions),
        "seconds": seconds,
        "megabytes": extra * 1024 / 1e6,
        "loss": total.item(),
        "gradient": gradient,
    }


def machine() -> str:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{cpu} ({torch.backends.cpu.get_cpu_capability()}), one thread, torch {torch.__version__}"


def table(found: dict[str, Any]) -> str:
    arms: dict[str, list[dict[str, Any]]] = found["arms"]
    lines = [
        "# A language model's step, logits in parts",
        "",
        f"Made by `benchmarks/language/step_memory.py`: {found['machine']}, float32. Llamas of width {WIDTH} and {LAYERS} layer, vocabulary {VOCABULARY:,}, rows of {LENGTH:,} tokens; the teacher of `kd` and `rlkd` has the same sizes.",
        "Forward, backward and AdamW's step. Extra memory: growth of the process's largest resident size over the step, gradients and AdamW's state among it; over the body: beside a step of the same networks whose loss reads",
        f"hidden states only (the output embedding's gradient and AdamW's state of it, {3 * 4 * VOCABULARY * WIDTH / 1e6:,.0f} MB a student, are not among that one). A model's logits take {4 * 4 * LENGTH * VOCABULARY / 1e6:,.0f} MB at {4 * LENGTH:,} positions. CPU seconds: the least of {max(map(len, arms.values()))}, each the first step of its process, while other work shared the machine.",
        "",
        "| method | students | positions | logits | extra memory, MB | over the body, MB | CPU seconds | time over all logits | loss, relative difference | gradient, relative difference of norms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows, way in ARMS:
        if not (runs := arms.get(f"{name} {rows} {way}")):
            continue
        body = arms.get(f"{'kd' if name == 'rlkd' else name} {rows} {BODY}")
        whole = arms.get(f"{name} {rows} {WHOLE}")
        over = f"{largest(runs) - largest(body):,.0f}" if body and way != BODY else ""
        compared = ["", "", ""]
        if way == PARTS and whole:
            compared = [f"{least(runs) / least(whole):.2f}"]
            compared += [f"{abs(runs[0][key] / whole[0][key] - 1):.0e}" for key in ("loss", "gradient")]
        cells = [
            name,
            str(METHODS[name][0]),
            f"{rows * LENGTH:,}",
            way,
            f"{largest(runs):,.0f}",
            over,
            f"{least(runs):.1f}",
        ]
        lines.append(f"| {' | '.join([*cells, *compared])} |")
    return "\n".join([*lines, ""])


def largest(runs: list[dict[str, Any]]) -> float:
    return max(each["megabytes"] for each in runs)


def least(runs: list[dict[str, Any]]) -> float:
    return min(each["seconds"] for each in runs)


def main() -> None:
    parser = script_parser(__doc__, "afresh")
    parser.add_argument("--repeats", type=int, default=1, help="steps of each arm, each in a process of its own")
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "ROWS", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, rows, way = arguments.one
        print(json.dumps(measure(name, int(rows), way)))
        return
    path = RESULTS / "language_step_memory.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not arguments.afresh else {}
    arms: dict[str, list[dict[str, Any]]] = known.get("arms", {})
    found = {"machine": machine(), "arms": arms}
    for number in range(arguments.repeats):
        for name, rows, way in ARMS:
            runs = arms.setdefault(f"{name} {rows} {way}", [])
            if len(runs) > number:
                continue
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = child(__file__, "--one", name, str(rows), way)
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(name, rows, way, runs[-1], flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            RESULTS.joinpath("language_step_memory.md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
