"""Memory and time of losses over a vocabulary: from hidden states in chunks of positions, and with the logits of all positions.

Every arm runs forward and backward in its own process, on one thread. Peak memory is the growth of the process's maximum resident size over the first step, once
inputs and weights exist; time is the least CPU time of the steps. "All logits" of the large shape are run for the forward KL
only, since each arm holds several tensors of 805 MB.

    python -m benchmarks.language.losses [--afresh] [--trl FOLDER]

FOLDER: where ``pip install --target FOLDER trl`` put TRL, which is not a dependency. Writes benchmarks/results/language_losses.json and .md; arms in the .json file are not
measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.shared import RESULTS, child, script_parser

VOCABULARY, WIDTH = 49152, 576  # SmolLM2-135M
SMALL, LARGE = 512, 4096
CHUNKED = {
    "cross_entropy": "cross-entropy",
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "jsd": "JSD",
    "tvd": "total variation",
    "adaptive_kl": "adaptive KL",
    "ranking": "ranking loss, k = 15",
    "rlkd": "RLKD: ranking loss and forward KL, k = 5",
}
OTHERS = {
    "plain_kl": "plain PyTorch: kl_div of log_softmax",
    "trl_jsd": "TRL, JSD in tiles",
    "trl_kl": "TRL, forward KL in tiles",
}
TRL = [("trl_kl", "tiles"), ("trl_jsd", "tiles")]
ARMS = {
    LARGE: [
        ("forward_kl", "all logits"),
        ("forward_kl", "chunked"),
        ("plain_kl", "all logits"),
        *TRL,
        *((name, "chunked") for name in ("cross_entropy", "adaptive_kl", "rlkd")),
    ],
    SMALL: [*((name, way) for name in CHUNKED for way in ("all logits", "chunked")), *TRL],
}


def per_position(name: str) -> Callable[..., Any]:
    import torch.nn.functional as F

    from coterie.losses import DIVERGENCES, ranking_distillation, ranking_loss

    if name == "cross_entropy":
        return lambda logits, teacher, labels: F.cross_entropy(logits, labels, reduction="none")
    if name == "ranking":
        return lambda logits, teacher, labels: ranking_loss(logits, teacher, 15)
    if name == "rlkd":
        return lambda logits, teacher, labels: ranking_distillation(logits, teacher, k=5, reduction="none")
    return lambda logits, teacher, labels: DIVERGENCES[name](logits, teacher, reduction="none")


def step_of(name: str, way: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """Return the loss as a function of the student's (hidden, weight, bias); a cross-entropy has no teacher."""
    import torch.nn.functional as F

    from coterie.losses import Projection, chunked_mean

    hidden, weight, bias = inputs["student"]
    teacher, labels = Projection(*inputs["teacher"]), inputs["labels"]
    if way == "tiles":
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        beta = 0.0 if name == "trl_kl" else 0.5
        return lambda: ChunkedDivergenceFunction.apply(hidden, weight, bias, *teacher[:3], beta)[0].mean()
    if name == "plain_kl":

        def plain() -> Any:
            student = F.log_softmax(F.linear(hidden, weight, bias), -1)
            return F.kl_div(student, F.log_softmax(F.linear(*teacher[:3]), -1), log_target=True, reduction="batchmean")

        return plain
    loss = per_position(name)
    if way == "chunked":
        if name == "cross_entropy":
            student_only = lambda logits, labels: loss(logits, None, labels)  # noqa: E731
            return lambda: chunked_mean(student_only, Projection(hidden, weight, bias), labels)
        return lambda: chunked_mean(loss, Projection(hidden, weight, bias), teacher, labels)

    def whole() -> Any:
        teachers = None if name == "cross_entropy" else F.linear(*teacher[:3])
        return loss(F.linear(hidden, weight, bias), teachers, labels).mean()

    return whole


def measure(name: str, way: str, positions: int, steps: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    scale = 2.0 / WIDTH**0.5  # logits with a standard deviation of 2
    parameters = [
        torch.randn(positions, WIDTH),
        torch.randn(VOCABULARY, WIDTH).mul_(scale),
        torch.randn(VOCABULARY).mul_(0.1),
    ]
    noise = 0.5
    teacher = [
        parameters[0] + noise * torch.randn(positions, WIDTH),
        parameters[1] + noise * scale * torch.randn(VOCABULARY, WIDTH),
        parameters[2].clone(),
    ]
    student = [each.requires_grad_() for each in parameters]
    with torch.no_grad():
        teacher = [each.clone() for each in teacher]
        labels = torch.randint(VOCABULARY, (positions,))
        torch.ones(64, 64) @ torch.ones(64, 64)  # allocates the buffers of the matrix product
    step = step_of(name, way, {"student": student, "teacher": teacher, "labels": labels})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, value, gradient, extra = [], 0.0, 0.0, 0
    for number in range(steps):
        for each in student:
            each.grad = None
        began = time.process_time()
        loss = step()
        loss.backward()
        seconds.append(time.process_time() - began)
        if number == 0:
            extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            value = loss.item()
            gradient = student[1].grad.norm().item()
    return {"seconds": min(seconds), "megabytes": extra * 1024 / 1e6, "loss": value, "gradient": gradient}


def floor_seconds(positions: int) -> float:
    """Time the four matrix products that every arm needs: both models' logits, and the gradients of hidden states and weight."""
    import torch

    torch.set_num_threads(1)
    rows = min(positions, 256)
    hidden, weight = torch.randn(rows, WIDTH), torch.randn(VOCABULARY, WIDTH)
    logits = hidden @ weight.T
    least = {}
    for name, product in {
        "logits": partial(torch.mm, hidden, weight.T, out=logits),
        "hidden": partial(torch.mm, logits, weight),
        "weight": partial(torch.mm, logits.T, hidden),
    }.items():
        times = []
        for _ in range(3):
            began = time.process_time()
            product()
            times.append(time.process_time() - began)
        least[name] = min(times)
    return (2 * least["logits"] + least["hidden"] + least["weight"]) * positions / rows


def machine() -> str:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{cpu} ({torch.backends.cpu.get_cpu_capability()}), one thread, torch {torch.__version__}"


def row(label: str, found: dict[str, Any], beside: dict[str, Any] | None) -> str:
    ratio = "" if beside is None else f"{found['seconds'] / beside['seconds']:.2f}"
    same = "" if beside is None else f"{abs(found['loss'] / beside['loss'] - 1):.0e}"
    grad = "" if beside is None else f"{abs(found['gradient'] / beside['gradient'] - 1):.0e}"
    return f"| {label} | {found['megabytes']:,.0f} | {found['seconds']:.2f} | {ratio} | {same} | {grad} |"


def table(found: dict[str, Any]) -> str:
    arms = found["arms"]
    operations = 4 * 2 * LARGE * VOCABULARY * WIDTH
    head = [
        "| loss | extra memory, MB | CPU seconds | time over all logits | loss, relative difference | weight's gradient, relative difference of norms |",
        "|---|---|---|---|---|---|",
    ]
    lines = [
        "# Losses over a vocabulary",
        "",
        f"Made by `benchmarks/language/losses.py`: {found['machine']}, float32{found['trl']}. Vocabulary {VOCABULARY:,}, width {WIDTH}, teacher of the same width, both with a bias. Forward and backward;",
        "extra memory: growth of the process's largest resident size over the first step, the gradients of hidden states, weight and bias among it; CPU seconds: the least of its steps (two of 512 positions, one of 4,096).",
        "TRL's tiles hold 4,096 positions by 32,768 tokens; on a CPU its torch code runs, whose sizes were chosen for GPUs. It stands beside the same divergence with all logits.",
        "",
        f"Floor for {LARGE:,} positions: {operations / 1e12:.2f} T floating-point operations in four products (both models' logits, the gradients of hidden states and weight; a cross-entropy has three), {found['floor']:.1f} s on this machine; "
        f"gradients of {4 * (VOCABULARY * (WIDTH + 1) + LARGE * WIDTH) / 1e6:.0f} MB. One tensor of all logits: {4 * LARGE * VOCABULARY / 1e6:.0f} MB.",
    ]
    for positions, each in ARMS.items():
        lines += ["", f"## {positions:,} positions", "", *head]
        for name, way in each:
            if (key := f"{positions} {name} {way}") in arms:
                reference = {"plain_kl": "forward_kl", "trl_kl": "forward_kl", "trl_jsd": "jsd"}.get(name, name)
                beside = (
                    None
                    if (name, way) == (reference, "all logits")
                    else arms.get(f"{positions} {reference} all logits")
                )
                label = {**CHUNKED, **OTHERS}[name] + ("" if way == "tiles" else f", {way}")
                lines.append(row(label, arms[key], beside))
    return "\n".join([*lines, ""])


def main() -> None:
    parser = script_parser(__doc__, "afresh")
    parser.add_argument("--trl", type=Path, help="folder with TRL, put at the end of the search path")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "WAY", "POSITIONS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trl:
        sys.path.append(str(arguments.trl))
    if arguments.one:
        name, way, positions = arguments.one
        print(json.dumps(measure(name, way, int(positions), 2 if int(positions) == SMALL else 1)))
        return
    trl = ""
    if arguments.trl:
        import trl as installed

        trl = f", TRL {installed.__version__}"
    path = RESULTS / "language_losses.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not arguments.afresh else {}
    arms: dict[str, Any] = known.get("arms", {})
    found = {"machine": machine(), "trl": trl, "floor": floor_seconds(LARGE), "arms": arms}
    for positions, each in ARMS.items():
        for name, way in each:
            key = f"{positions} {name} {way}"
            if key in arms or (way == "tiles" and not trl):
                continue
            command = child(__file__, "--one", name, way, str(positions))
            command += ["--trl", str(arguments.trl)] if arguments.trl else []
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            arms[key] = json.loads(done.stdout.splitlines()[-1])
            print(key, arms[key], flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    RESULTS.joinpath("language_losses.md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
