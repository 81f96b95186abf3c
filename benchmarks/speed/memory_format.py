"""Compares the two memory formats on a CPU, and checks whether training.channels_last=auto chooses the faster one; channels last also
with PyTorch's own weight gradients for depthwise convolutions instead of those of coterie.training.small_maps.

The figure is the CPU time of a step (forward, backward, SGD) on one thread, the least of several rounds. The two ways run in turn in one process for each
shape, with coterie's allocator setting, as in a run.

    python -m benchmarks.speed.memory_format [--rounds 7] [--afresh]

writes benchmarks/results/memory_format.json and .md (about five minutes on one core); shapes in the .json file are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.shared import RESULTS, child, script_parser

SHAPES = [
    # kind, network, side, batch
    ("dense", "tiny_cifar", 32, 64),
    ("dense", "tiny_cifar", 64, 32),
    ("dense", "resnet20_cifar", 32, 32),
    ("dense", "vgg16_cifar", 32, 32),
    ("dense", "densenet40_12_cifar", 32, 16),
    ("dense", "resnet18", 64, 16),
    ("dense", "resnet18", 224, 4),
    ("dense", "resnet50", 64, 8),
    ("dense", "repvgg_a0", 64, 16),
    ("grouped", "regnety_002", 96, 16),
    ("grouped", "resnext50_32x4d", 64, 4),
    ("depthwise", "tf_efficientnet_lite0", 96, 32),
    ("depthwise", "mobilenetv3_small_050", 96, 32),
    ("depthwise", "mobilenetv2_100", 64, 16),
    ("depthwise", "efficientnet_b0", 96, 16),
    ("depthwise", "fastvit_t8", 128, 4),
    ("depthwise", "convnext_atto", 96, 16),
    ("depthwise", "mobilenetv4_conv_small", 64, 36),
    ("depthwise", "mobilenetv3_small_100", 64, 32),
    ("depthwise", "tf_efficientnet_lite0", 64, 32),
    ("depthwise", "convnext_atto", 64, 32),
    ("depthwise", "convmixer_768_32", 64, 1),
    ("depthwise", "convmixer_768_32", 64, 4),
    ("transformer", "vit_tiny_patch16_224", 224, 4),
    ("transformer", "swin_tiny_patch4_window7_224", 224, 1),
    ("transformer", "levit_128s", 224, 4),
    ("transformer", "mobilevit_xxs", 128, 8),
    ("transformer", "mixer_s32_224", 224, 4),
]


def measure(network: str, side: int, batch: int, rounds: int) -> dict[str, Any]:
    """Return the seconds per step in both formats, and the choice of auto."""
    import timm
    import torch

    from coterie.networks.papers.registration import register
    from coterie.running.allocation import keep_freed_memory
    from coterie.training.memory_format import move_to_device, suits_channels_last

    register()
    torch.set_num_threads(1)
    keep_freed_memory()
    cpu = torch.device("cpu")

    def step_of(channels_last: bool, sped_up: bool = True) -> Callable[[], None]:
        torch.manual_seed(0)
        model: Any = move_to_device(timm.create_model(network, num_classes=10).train(), cpu, channels_last)
        for module in () if sped_up else model.modules():
            vars(module).pop("_conv_forward", None)
        images = torch.randn(batch, 3, side, side)
        images = images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        targets = torch.arange(batch) % 10
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

        def step() -> None:
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        step()
        return step

    steps = {
        "contiguous": step_of(False),
        "channels last": step_of(True),
        "PyTorch's gradients": step_of(True, sped_up=False),
    }
    least = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.process_time()
            step()
            least[name] = min(least[name], time.process_time() - began)
    model = timm.create_model(network, num_classes=10)
    chosen = "channels last" if suits_channels_last(model, (3, side, side), cpu) else "contiguous"
    return {"seconds": least, "chosen": chosen, "machine": _machine(torch)}


def _machine(torch: Any) -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "CPU",
    )
    return f"{cpu} ({torch.backends.cpu.get_cpu_capability()}), one thread, torch {torch.__version__}"


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Memory formats on a CPU",
        "",
        f"Made by `benchmarks/speed/memory_format.py`: {next(iter(rows.values()))['machine']}. CPU time of a step in ms, forward, backward and SGD in float32;",
        "chosen: what `training.channels_last=auto` takes; its time over the other format's, and over the better one's. PyTorch's gradients: channels last without",
        "`coterie.training.small_maps`; channels last over it. Of dense networks and transformers the two are the same computation and show the noise.",
        "",
        "| kind | network | images | contiguous | channels last | chosen | over the other | over the better | PyTorch's gradients | over it |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    worst = 0.0
    for row in rows.values():
        seconds, chosen = dict(row["seconds"]), row["chosen"]
        own = seconds.pop("PyTorch's gradients")
        other = next(value for name, value in seconds.items() if name != chosen)
        better = seconds[chosen] / min(seconds.values())
        worst = max(worst, better)
        lines.append(
            f"| {row['kind']} | {row['network']} | {row['batch']}x3x{row['side']}x{row['side']} | {1e3 * seconds['contiguous']:.1f} | "
            f"{1e3 * seconds['channels last']:.1f} | {chosen} | {seconds[chosen] / other:.2f} | {better:.2f} | "
            f"{1e3 * own:.1f} | {seconds['channels last'] / own:.2f} |"
        )
    return "\n".join([*lines, "", f"Worst of auto over the better format: {worst:.3f}.", ""])


def main() -> None:
    parser = script_parser(__doc__, "rounds", "afresh", rounds=7)
    parser.add_argument("--one", nargs=3, metavar=("NETWORK", "SIDE", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        network, side, batch = arguments.one
        print(json.dumps(measure(network, int(side), int(batch), arguments.rounds)))
        return
    path = RESULTS / "memory_format.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not arguments.afresh else {}
    for kind, network, side, batch in SHAPES:
        key = f"{network} {batch}x{side}"
        if key not in known:
            command = child(__file__, "--rounds", str(arguments.rounds))
            command += ["--one", network, str(side), str(batch)]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            row = json.loads(done.stdout.splitlines()[-1])
            known[key] = {"kind": kind, "network": network, "side": side, "batch": batch, **row}
            path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        print(key, known[key]["seconds"], known[key]["chosen"], flush=True)
    ordered = {f"{n} {b}x{s}": known[f"{n} {b}x{s}"] for _, n, s, b in SHAPES}
    (RESULTS / "memory_format.md").write_text(table(ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
