"""Counted operations and activations of a training step of every online method, relative to the network alone.

They are counted, not timed, so they are the same on every machine; `coterie benchmark` times one recipe on your machine.

    python -m benchmarks.speed.method_costs [--network resnet32_cifar] [--at layer3]

writes benchmarks/results/method_costs.md (seconds, on one core).
"""

from __future__ import annotations

from typing import NamedTuple

import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import coterie
from benchmarks.shared import RESULTS, script_parser
from coterie.methods import METHODS, TABLE
from coterie.methods.method import Method
from coterie.networks.papers.registration import register

BATCH, CLASSES = 32, 100
NEEDS_TRUNK = {"one"}


class Cost(NamedTuple):
    """Cost of one step: operations per image; bytes that autograd saves for the backward pass, excluding weights."""

    operations: float
    activations: float


def build(name: str, network: str, students: int, at: str | None) -> Method:
    example = torch.zeros(2, 3, 32, 32)
    group = coterie.branch(timm.create_model(network, num_classes=CLASSES), students, at, example=example)
    return coterie.create_method(name, group).train()


def measure(method: Method, views: int) -> Cost:
    """Measure one forward and backward pass in float32, fully ramped up."""
    images, targets = torch.randn(BATCH, 3, 32, 32), torch.randint(CLASSES, (BATCH,))
    weights = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # references prevent the reuse of addresses

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = torch.stack(tuple(method(images if views == 1 else [images] * views, targets).values())).sum()
        loss.backward()
    activations = sum(storage.nbytes() for address, storage in kept.items() if address not in weights)
    return Cost(counter.get_total_flops() / BATCH, activations / BATCH)


def rows(network: str, split: str) -> list[str]:
    alone = measure(build("baseline", network, 1, None), 1)
    found = [
        f"`{network}`, {CLASSES} classes, alone: {alone.operations / 1e6:.0f} M operations an image, forward and backward; "
        f"{alone.activations / 2**20:.1f} MiB of activations an image in float32.",
        "",
        "| method | students | views | trunk: operations | trunk: activations | peers: operations | peers: activations | extra parameters |",
        "|---|---|---|---|---|---|---|---|",
    ]
    online = [name for name, entry in TABLE.items() if entry.kind == "online" or name == "independent"]
    for name in online:
        students = METHODS[name].default_branches
        wanted = build(name, network, students, split).views
        for views in sorted({1, wanted}):
            cells = []
            for at in (split, None):
                if at is None and name in NEEDS_TRUNK:
                    cells += ["-", "-"]
                    continue
                method = build(name, network, students, at)
                cost = measure(method, views)
                cells += [f"{mine / its:.2f}" for mine, its in zip(cost, alone, strict=True)]
            extra = sum(p.numel() for p in method.parameters() if p.requires_grad) - sum(
                p.numel() for p in method.group.parameters()
            )
            found.append(
                f"| {name} | {students} | {'shared' if views == 1 else views} | {' | '.join(cells)} | {extra:,} |"
            )
    return found


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--network", default="resnet32_cifar")
    parser.add_argument("--at", default="layer3")
    arguments = parser.parse_args()
    register()
    torch.manual_seed(0)
    lines = [
        "# Cost of a training step",
        "",
        f"Made by `benchmarks/speed/method_costs.py`, torch {torch.__version__}. Multiples of the network alone: operations (convolutions and matrix",
        "products, forward and backward) and activations (what autograd keeps for the backward pass, without weights, gradients and optimizer). Each",
        f"method with its own number of students and default settings; the trunk ends before `{arguments.at}`. Shared: one view of an image for all.",
        "Extra parameters are trained and not deployed.",
        "",
        *rows(arguments.network, arguments.at),
    ]
    (RESULTS / "method_costs.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
