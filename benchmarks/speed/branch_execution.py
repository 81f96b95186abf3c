"""Compares ways to run the branches of a group: sequentially, on CUDA streams, in one batched computation, compiled.

    python -m benchmarks.speed.branch_execution [--device cuda] [--shapes 4x128 8x32 2x512]    # branches x batch

Times are of the forward and backward pass of the branches alone (ResNet-32 from layer3 on, trunk maps of 128 CIFAR images), in train mode with BatchNorm's statistics. `vmap` runs
`torch.func.vmap` over `stack_module_state`, which turns convolutions into grouped ones; `grouped` is the same computation written by hand, where BatchNorm
of a stack is BatchNorm over more channels. On a GPU, each way is also measured with its forward and backward pass recorded as a CUDA graph. Every
result is compared with that of the plain loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from benchmarks.shared import script_parser

WIDTH, CLASSES = 64, 100


class Block(nn.Module):
    """A basic block of `copies` networks at once, with grouped convolutions and BatchNorm over all their channels."""

    def __init__(self, inputs: int, copies: int, stride: int) -> None:
        super().__init__()
        width = WIDTH * copies
        self.first = nn.Conv2d(inputs * copies, width, 3, stride, 1, bias=False, groups=copies)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False, groups=copies)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            shortcut = nn.Conv2d(inputs * copies, width, 1, stride, bias=False, groups=copies)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.second_norm(self.second(torch.relu(self.first_norm(self.first(maps)))))
        return torch.relu(inner + self.shortcut(maps))


class Branches(nn.Module):
    """`copies` branches stacked along the channels: layer3 of a CIFAR ResNet-32, pooling, and a linear layer each."""

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.copies = copies
        blocks = [Block(32 if number == 0 else WIDTH, copies, 2 if number == 0 else 1) for number in range(5)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Conv1d(WIDTH * copies, CLASSES * copies, 1, groups=copies)

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, 32, 16, 16] to logits [B, copies, K]; a single copy reads the maps unchanged."""
        repeated = maps.repeat(1, self.copies, 1, 1) if self.copies > 1 else maps
        pooled = self.blocks(repeated).mean((2, 3))
        logits: Tensor = self.fc(pooled[:, :, None])[:, :, 0].unflatten(1, (self.copies, CLASSES))
        return logits


def side_by_side(branches: list[Branches]) -> Branches:
    """Build one grouped computation with the same weights."""
    joined = Branches(len(branches))
    states = [branch.state_dict() for branch in branches]
    joined.load_state_dict(
        {name: torch.cat([state[name] for state in states]) if value.ndim else value for name, value in states[0].items()}
    )  # fmt: skip
    return joined


def ways(branches: list[Branches], device: torch.device) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return, by name, functions from maps to logits [B, n, K], each with its own weights and equal initial values."""

    def loop(members: list[Branches]) -> Callable[[Tensor], Tensor]:
        return lambda maps: torch.cat([each(maps) for each in members], dim=1)

    def own() -> list[Branches]:
        return [copy.deepcopy(each) for each in branches]

    joined = side_by_side(branches).to(device, memory_format=torch.channels_last).train()
    skeleton = copy.deepcopy(branches[0]).to("meta")
    parameters, buffers = stack_module_state(own())  # type: ignore[arg-type]

    def one(weights: dict[str, Tensor], statistics: dict[str, Tensor], maps: Tensor) -> Tensor:
        result: Tensor = functional_call(skeleton, (weights, statistics), (maps,))
        return result

    def stacked(maps: Tensor) -> Tensor:
        return vmap(one, in_dims=(0, 0, None))(parameters, buffers, maps)[:, :, 0].transpose(0, 1)

    found = {"loop": loop(own()), "grouped": joined, "vmap": stacked, "loop, compiled": torch.compile(loop(own()))}
    if device.type == "cuda":
        streams = [torch.cuda.Stream() for _ in branches]
        members = own()

        def beside(maps: Tensor) -> Tensor:
            results = []
            for stream, each in zip(streams, members, strict=True):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    results.append(each(maps))
            for stream in streams:
                torch.cuda.current_stream().wait_stream(stream)
            return torch.cat(results, dim=1)

        found["streams"] = beside
    return found


def recorded(call: Callable[[], None]) -> Callable[[], None]:
    """Record a call's GPU work as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measured(count: int, batch: int, device: torch.device) -> list[str]:
    """Return the table's rows for one shape."""
    from coterie.benchmark.timing import interleaved

    torch.manual_seed(0)
    torch._dynamo.reset()
    members = [Branches(1).to(device, memory_format=torch.channels_last).train() for _ in range(count)]
    maps = torch.randn(batch, 32, 16, 16, device=device).to(memory_format=torch.channels_last)
    found = ways(members, device)
    expected = None
    errors = {}
    for name, run in found.items():
        with torch.no_grad():
            logits = run(maps)
        expected = logits if expected is None else expected
        errors[name] = f"{float((logits - expected).norm() / expected.norm()):.0e}"
    maps.requires_grad_()
    calls = {name: (lambda run=run: run(maps).square().mean().backward()) for name, run in found.items()}
    failed = {}
    for name, call in list(calls.items()) if device.type == "cuda" else ():
        try:
            calls[f"{name}, recorded"] = recorded(call)
        except RuntimeError as error:
            failed[f"{name}, recorded"] = str(error).splitlines()[0][:100]
    times = interleaved(calls, device, repetitions=7)
    rows = []
    for name, timing in times.items():
        share = timing.median / times["loop"].median
        rows.append(f"| {count} | {batch} | {name} | {1e3 * timing.median:.1f} ({1e3 * timing.low:.1f} to {1e3 * timing.high:.1f}) | {share:.2f} | {errors.get(name, '')} |")  # fmt: skip
    return rows + [f"| {count} | {batch} | {name} | {reason} | | |" for name, reason in failed.items()]


def main() -> None:
    parser = script_parser(__doc__, "device", "output")
    parser.add_argument("--shapes", nargs="+", default=["4x128", "8x32", "2x512"])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    lines = [
        "# Branches, forward and backward",
        "",
        f"{machine}, torch {torch.__version__}, float32, ResNet-32 from layer3 on. Medians of interleaved repetitions.",
        "",
        "| branches | batch | way | ms (quartiles) | of the loop's time | difference of the logits |",
        "|---|---|---|---|---|---|",
    ]
    for shape in arguments.shapes:
        count, batch = (int(part) for part in shape.split("x"))
        lines += measured(count, batch, device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"branch_execution_{arguments.device}.md"
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
