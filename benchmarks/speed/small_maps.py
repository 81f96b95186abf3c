"""Compares the weight gradients of depthwise convolutions on small maps: PyTorch's, in both memory formats, and coterie.training.small_maps.

    python -m benchmarks.speed.small_maps

writes benchmarks/results/small_maps.md (one thread, the least of ten rounds in turn; half a minute).
"""

from __future__ import annotations

import time

import torch

from benchmarks.shared import RESULTS, script_parser
from coterie.training.small_maps import depthwise_weight_gradient

# channels, kernel side, stride, map side, batch; the last four are maps that are no smaller than the kernel, which stay with PyTorch
SHAPES = [
    *((512, 5, 1, 2, 32), (512, 5, 1, 2, 128), (192, 5, 1, 4, 32), (384, 7, 1, 4, 32), (768, 7, 1, 2, 32)),
    *((512, 3, 1, 2, 32), (512, 3, 1, 2, 256), (960, 3, 1, 2, 32), (512, 3, 2, 2, 32)),
    *((512, 3, 1, 3, 32), (576, 3, 2, 4, 64), (192, 5, 2, 8, 32), (120, 5, 1, 28, 32)),
]


def measure(channels: int, kernel: int, stride: int, side: int, batch: int) -> str:
    """Returns a row of the table."""
    padding = kernel // 2
    plain = torch.randn(batch, channels, side, side)
    weight = torch.randn(channels, 1, kernel, kernel)
    gradient = torch.randn_like(torch.nn.functional.conv2d(plain, weight, None, stride, padding, 1, channels))
    last, gradient_last = (each.to(memory_format=torch.channels_last) for each in (plain, gradient))

    def pytorch(images: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        pairs = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0])
        return torch.ops.aten.convolution_backward(by, images, weight, None, *pairs, channels, [False, True, False])[1]

    ways = {
        "contiguous": lambda: pytorch(plain, gradient),
        "channels last": lambda: pytorch(last, gradient_last),
        "own": lambda: depthwise_weight_gradient(
            last, gradient_last, (kernel, kernel), (stride, stride), (padding, padding), (1, 1)
        ),
    }
    torch.testing.assert_close(ways["own"](), ways["contiguous"](), atol=1e-2, rtol=1e-3)
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(10):
        for name, way in ways.items():
            began = time.process_time()
            way()
            least[name] = min(least[name], time.process_time() - began)
    figures = " | ".join(f"{1e3 * seconds:.2f}" for seconds in least.values())
    ratio = least["channels last"] / least["own"]
    return f"| {batch}x{channels}x{side}x{side} | {kernel}x{kernel} / {stride} | {figures} | {ratio:.1f} | {'yes' if side < kernel else 'no'} |"


def main() -> None:
    script_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        "# Weight gradients of depthwise convolutions on small maps",
        "",
        f"Made by `benchmarks/speed/small_maps.py`: {torch.backends.cpu.get_cpu_capability()}, one thread, torch {torch.__version__}. Milliseconds of CPU time. Own: the sum by taps, channels last;",
        "ratio: PyTorch's channels last over it; used: whether `coterie.training.small_maps` computes it so (maps smaller than the kernel).",
        "",
        "| map | kernel / stride | contiguous | channels last | own | ratio | used |",
        "|---|---|---|---|---|---|---|",
        *(measure(*shape) for shape in SHAPES),
    ]
    (RESULTS / "small_maps.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
