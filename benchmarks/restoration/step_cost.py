"""Cost of a step of DFOSD relative to the forward and backward passes of its networks and to a plain loop; and the cost of degradations made by two threads.

Times are CPU seconds of this process, on one thread. All ways take turns in every round, on the same batches. Other load on the machine slows single rounds, so the table has each way's least time
and the ratios of these, and also the median of the ratios per round with its quartiles. Every way ends with AdamW's steps.

    python -m benchmarks.restoration.step_cost [--rounds 25]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.shared import cpu_seconds, grown, markdown, peak_megabytes, ratios, script_parser
from coterie.data.order import Order
from coterie.methods.restoration.dfosd import DFOSD
from coterie.networks.one_step.generator import OneStepGenerator
from coterie.networks.one_step.latents import find_latents
from coterie.networks.one_step.unets import add_lora, find_diffusion
from coterie.tasks.restoration.data.loaders import SquareLoader
from coterie.tasks.restoration.data.sets import load_sets
from coterie.tasks.restoration.settings import RestorationData

BATCH, CROP, SCALE, WORKERS = 4, 64, 4, 2
SIZES = {"block_out_channels": [64, 128], "norm_num_groups": 16, "attention_head_dim": 16, "cross_attention_dim": 32}
NETWORKS, OURS, PLAIN = "networks alone", "dfosd", "plain loop"
KINDS = ("bicubic", "first_order", "real_esrgan")


def loader(kind: str) -> SquareLoader:
    recipe = RestorationData(name="photos", crop=CROP, degradation=kind)
    sets = load_sets(recipe)
    squares = sets.squares["train"]
    order = Order(len(squares), BATCH, 0, 0, 1)
    return SquareLoader(sets.pictures["train"], squares, recipe, order, torch.device("cpu"))


class Setting:
    """The method, batches, and the ways to compute one step."""

    def __init__(self) -> None:
        latents = find_latents("none", "tiny_unet", 4)
        diffusion = find_diffusion("tiny_unet", latents.channels, SIZES, seed=1)
        self.generator = OneStepGenerator.of(diffusion, latents, scale=SCALE, timestep=399)
        self.generator.pretrained = True  # so that both sides train LoRA, as with published weights
        add_lora(self.generator.unet, rank=16, alpha=16)
        self.method = DFOSD(self.generator, dists_backbone="random").train()
        assert self.method.discriminator is not None
        self.discriminator = self.method.discriminator
        self.dists = self.method.likeness.network
        self.optimizers = [
            torch.optim.AdamW(self.generator.trained_parameters(), 1e-4),
            *self.method.build_optimizers().values(),
        ]
        numbers = torch.arange(2 * BATCH).split(BATCH)
        pairs = [[loader("first_order").pair(0, number) for number in part.tolist()] for part in numbers]
        self.batches = [
            (torch.stack([low for low, _ in each]), torch.stack([high for _, high in each])) for each in pairs
        ]

    def networks(self, number: int) -> None:
        """Run every pass that the objective needs, backward from gradients of ones: the generator, DISTS's network on images and edges, and the discriminator three times."""
        low, high = self.batches[number]
        latents, restored = self.method.restored(low)
        edges = [each.mean(1, keepdim=True) for each in (restored, high)]
        features = [*self.dists.features(restored), *self.dists.features(edges[0])]  # type: ignore[union-attr]
        with torch.no_grad():
            for each in (high, edges[1]):
                self.dists.features(each)  # type: ignore[union-attr]
        times = torch.randint(1000, (BATCH,))
        for each in self.discriminator.parameters():
            each.requires_grad_(False)
        scores = self.discriminator(latents, times)
        self._trainable()
        made = self.discriminator(latents.detach(), times)
        real = self.discriminator(self.generator.encode(high), times)
        outputs = [*features, scores, made, real]
        outputs = [each for each in outputs if each.requires_grad]
        torch.autograd.backward(outputs, [torch.ones_like(each) for each in outputs])
        self._step()

    def _trainable(self) -> None:
        for name, each in self.discriminator.named_parameters():
            each.requires_grad_(name in self.trained)

    @property
    def trained(self) -> set[str]:
        if not hasattr(self, "_trained"):
            own = {id(each) for group in self.optimizers[1].param_groups for each in group["params"]}
            self._trained = {name for name, each in self.discriminator.named_parameters() if id(each) in own}
        return self._trained

    def ours(self, number: int) -> None:
        sum(self.method(*self.batches[number]).values()).backward()  # type: ignore[union-attr]
        self._step()

    def by_hand(self, number: int) -> None:
        """Make the generator's step, then the discriminator's, as in a plain script: two backward passes, with the discriminator frozen by ``requires_grad`` in the first."""
        low, high = self.batches[number]
        latents, restored = self.method.restored(low)
        for each in self.discriminator.parameters():
            each.requires_grad_(False)
        scores = self.discriminator(self._noised(latents), self.times)
        loss = F.mse_loss(restored * 2 - 1, high * 2 - 1) + self.dists.edge_aware(restored, high).mean()  # type: ignore[union-attr, operator]
        (loss + 0.05 * F.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))).backward()
        self._trainable()
        for each, label in ((latents.detach(), 0.0), (self.generator.encode(high), 1.0)):
            scores = self.discriminator(self._noised(each), self.times)
            F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, label)).backward()
        self._step()

    def ways(self) -> dict[str, Callable[[int], None]]:
        return {NETWORKS: self.networks, OURS: self.ours, PLAIN: self.by_hand}

    def _noised(self, latents: Tensor) -> Tensor:
        self.times = torch.randint(1000, (len(latents),))
        share = self.generator.alphas_bar[self.times].view(-1, 1, 1, 1)
        return share.sqrt() * latents + (1 - share).sqrt() * torch.randn_like(latents)

    def _step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()


def main() -> None:
    parser = script_parser(__doc__, "output", "rounds", rounds=25)
    parser.add_argument(
        "--way", choices=(NETWORKS, OURS, PLAIN), help="print how many MB a step of it takes, nothing else"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    setting = Setting()
    if arguments.way:
        print(peak_megabytes(setting.ways()[arguments.way]))
        return
    memory = grown(__file__, (NETWORKS, OURS, PLAIN))
    loaders = {kind: loader(kind) for kind in KINDS}

    def degraded(kind: str) -> Callable[[int], None]:
        def batch(number: int) -> None:
            for each in range(number * BATCH, (number + 1) * BATCH):
                loaders[kind].pair(0, each)

        return batch

    ways: dict[str, Callable[[int], None]] = setting.ways() | {kind: degraded(kind) for kind in KINDS}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        step(0)
    for turn in range(arguments.rounds):
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(cpu_seconds(ways[name], turn % len(setting.batches)))

    rows = [
        (
            name,
            f"{min(times[name]):.2f}",
            *(ratios(times[name], times[other]) for other in (NETWORKS, PLAIN)),
            f"{memory[name]:.0f}",
            f"{memory[name] / memory[NETWORKS]:.2f}",
        )
        for name in (NETWORKS, OURS, PLAIN)
    ]
    shares = [
        (
            kind,
            f"{1000 * min(times[kind]) / BATCH:.1f}",
            f"{100 * min(times[kind]) / min(times[OURS]) / WORKERS:.1f}",
        )
        for kind in KINDS
    ]
    parameters = sum(each.numel() for each in setting.generator.parameters()) / 1e6
    text = (
        f"# What a step of DFOSD costs\n\nMade by `python -m benchmarks.restoration.step_cost`: one thread, float32, torch {torch.__version__}, {arguments.rounds} rounds. "
        f"A generator of {parameters:.1f} million parameters without an autoencoder, its own lower half as the discriminator, LoRA of rank 16 on both, EA-DISTS on a random narrow network; "
        f"{BATCH} squares of {CROP} pixels, x{SCALE}.\nEach way's least CPU seconds and the ratios of these; in brackets the median of the rounds' own ratios, with its quartiles. "
        "`networks alone`: all passes forward and backward, no loss, no noise. `plain loop`: the same networks with losses by hand, three backward passes. Memory: by how much the process grows at most in a step, each way in one of its own.\n\n"
    )
    text += markdown(
        ("way", "CPU seconds a step", "over its networks", "over the plain loop", "peak MB", "over its networks"), rows
    )
    text += f"\nCutting, turning and degrading the squares of a batch, as a share of a step's time where {WORKERS} threads do it while the step before is computed:\n\n"
    text += markdown(("degradation", "CPU milliseconds a square", "% of a step"), shares)
    path = Path(arguments.output) / "restoration" / "step_cost.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
