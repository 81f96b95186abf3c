"""Overhead of coterie's training loop per step: its own epoch, with progress and logging, against a loop written by hand.

    python -m benchmarks.speed.loop_overhead [--device cuda] [--network resnet20_cifar] [--rounds 15] [--output DIR]

CIFAR shape, batch 128, augmented batches of the same loader. By hand: the plain network, cross-entropy, backward, SGD and a cosine schedule,
nothing else. Ours: `Trainer`'s epoch as `coterie train` runs it, with its progress shown (to a discarded stream) and
rows written every 50 steps, without evaluation and checkpoint. Both train the same network on the same batches in turn; the order alternates,
and the result is the ratio of each round.
"""

from __future__ import annotations

import io
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from rich.console import Console

from benchmarks.fixed import fixed
from benchmarks.shared import script_parser
from benchmarks.speed.steps import synthetic

STEPS = 12


def main() -> None:
    from coterie.benchmark.measure import Subject
    from coterie.benchmark.timing import seconds
    from coterie.recipe import load_recipe
    from coterie.training.display import Display
    from coterie.training.interruption import Interruption

    parser = script_parser(__doc__, "device", "output", "rounds", rounds=15)
    parser.add_argument("--network", default="resnet20_cifar")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = synthetic(Path(folder) / "data", 128 * STEPS)
        recipe = {
            "data": {"name": "cifar100", "root": str(root), "validation": 0},
            "network": {"name": arguments.network},
            "method": {"name": "baseline"},
            "training": {"batch_size": 128, "device": arguments.device, "cuda_graph": False, "epochs": 300},
        }
        subject = Subject(load_recipe(fixed(recipe)), Path(folder) / "run")
        trainer, loader, device = subject.trainer, subject.task.data.train, subject.device
        trainer.display = Display(300 * STEPS, 300)
        trainer.display.console = Console(file=io.StringIO(), force_terminal=True)
        network = timm.create_model(arguments.network, num_classes=100).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300 * STEPS)

        def ours() -> None:
            trainer.batch = 0
            trainer._train_epoch(interruption)

        def by_hand() -> None:
            network.train()
            batches: Iterator = loader.epoch(0)
            for batch in batches:
                F.cross_entropy(network(batch.inputs), batch.targets).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()

        ratios, times = [], []
        with Interruption() as interruption, trainer.display:
            for round_ in range(arguments.rounds + 1):
                found = {
                    call: seconds(call, 1, device) for call in ((ours, by_hand) if round_ % 2 else (by_hand, ours))
                }
                if round_:  # the first round is a warm-up
                    ratios.append(found[ours] / found[by_hand])
                    times.append(1e3 * found[by_hand] / STEPS)
    low, middle, high = statistics.quantiles(ratios, n=4)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    lines = [
        "# The loop's own time",
        "",
        f"{machine}, torch {torch.__version__}; {arguments.network}, CIFAR shape, batch 128, float32, channels last; {arguments.rounds} rounds of {STEPS} steps each.",
        "",
        f"A step by hand takes {statistics.median(times):.1f} ms. Coterie's epoch over the loop's by hand: {statistics.mean(ratios):.3f} ± {error:.3f} (mean ± standard error; median {middle:.3f}, quartiles {low:.3f} and {high:.3f}).",
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"loop_overhead_{arguments.device}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
