"""Resolves ``auto`` settings by the kind of network, whether it is pretrained, and the number of training samples.

The values are one table and rules that scale it. Sources:

- Networks trained from scratch: grids on a validation split over six folders of pictures and four kinds of network
  (benchmarks/own_images, docs/own-images.md).
- Pretrained networks: common practice. A few hundred to a thousand steps below 20,000 images (BiT-HyperRule, Kolesnikov et al. 2020,
  section 3.3), AdamW at 1e-4 to 5e-4 for convolutional networks and 1e-4 for transformers (timm's and torchvision's fine-tuning
  recipes), 5e-5 for text (transformers' default).
- Language models: learning rate 2e-5 if pretrained (RLKD and instruction tuning), 2e-4 with LoRA (QLoRA); weight decay 0.1 from scratch
  (GPT-3). The learning rate from scratch is for small networks: of 1e-3, 3e-3 and 6e-3 at 8 rows, the second was best for one of
  0.3 million parameters, in one run each.
- Pretrained diffusion networks: D3SR's 5e-5 at a batch of 8, with AdamW's default decay; from scratch not measured.
- Speech encoders that start from a teacher's layers: DistilHuBERT's 2e-4 and 1e-6 (s3prl); from scratch not measured.
- The CIFAR family keeps the SGD of its papers on data as large as theirs. Measured on validation (benchmarks/own_images/pretrained.py):
  the rate of a pretrained CIFAR network, and that holding BatchNorm's statistics helps a pretrained mobile network (+21 points with
  10 images a class) but not a CIFAR network (-6 points).

This module does not import torch, data or tasks: they pass in the facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from coterie.errors import CoterieError, did_you_mean
from coterie.recipe import Recipe, load_recipe
from coterie.recipe.sections import AUTO

Family = Literal[
    "CIFAR network",
    "convolutional network",
    "mobile network",
    "transformer",
    "text network",
    "language model",
    "language model with LoRA",
    "diffusion network",
    "diffusion network with LoRA",
    "speech encoder",
]


@dataclass(frozen=True)
class Facts:
    """The facts that automatic settings depend on.

    Attributes:
        family: kind of the students' network; that of the first one if they differ.
        pretrained: whether training starts from pretrained weights.
        samples: number of training samples.
    """

    family: Family
    pretrained: bool
    samples: int


@dataclass(frozen=True)
class Row:
    """One row of the table: learning rates at a batch size of 32, and the length of training."""

    optimizer: str
    sgd_rate: float
    adam_rate: float
    adam_decay: float
    steps: int  # number of steps that suffices for few samples
    epochs: tuple[int, int]  # minimum and maximum
    held: bool = False  # whether BatchNorm's statistics are held, for few samples


SCRATCH, PRETRAINED = False, True
TABLE: dict[tuple[Family, bool], Row] = {
    ("CIFAR network", SCRATCH): Row("sgd", 0.1, 2e-3, 0.05, 1_000, (30, 100)),
    ("convolutional network", SCRATCH): Row("adamw", 0.1, 2e-3, 0.05, 1_000, (30, 100)),
    ("mobile network", SCRATCH): Row("sgd", 0.02, 2e-3, 0.05, 1_000, (30, 100)),
    ("transformer", SCRATCH): Row("adamw", 0.02, 5e-4, 0.05, 1_000, (30, 100)),
    ("text network", SCRATCH): Row("adamw", 0.02, 5e-4, 0.05, 1_000, (10, 30)),
    ("CIFAR network", PRETRAINED): Row("sgd", 0.02, 5e-4, 0.05, 600, (10, 50)),
    ("convolutional network", PRETRAINED): Row("adamw", 0.02, 5e-4, 0.05, 600, (10, 50)),
    ("mobile network", PRETRAINED): Row("adamw", 0.02, 5e-4, 0.05, 600, (10, 50), held=True),
    ("transformer", PRETRAINED): Row("adamw", 0.005, 1e-4, 0.05, 600, (10, 50)),
    ("text network", PRETRAINED): Row("adamw", 0.002, 5e-5, 0.01, 600, (3, 10)),
    ("language model", SCRATCH): Row("adamw", 0.1, 4e-3, 0.1, 600, (1, 10)),
    ("language model", PRETRAINED): Row("adamw", 0.002, 2e-5, 0.0, 300, (1, 3)),
    ("language model with LoRA", PRETRAINED): Row("adamw", 0.01, 2e-4, 0.0, 300, (1, 3)),
    ("diffusion network", SCRATCH): Row("adamw", 0.1, 2e-3, 0.01, 1_000, (20, 200)),
    ("diffusion network", PRETRAINED): Row("adamw", 0.005, 1e-4, 0.01, 600, (10, 100)),
    ("diffusion network with LoRA", SCRATCH): Row("adamw", 0.1, 2e-3, 0.01, 1_000, (20, 200)),
    ("diffusion network with LoRA", PRETRAINED): Row("adamw", 0.005, 1e-4, 0.01, 600, (10, 100)),
    ("speech encoder", SCRATCH): Row("adamw", 0.02, 1e-3, 1e-6, 1_000, (2, 50)),
    ("speech encoder", PRETRAINED): Row("adamw", 0.005, 2e-4, 1e-6, 1_000, (2, 50)),
}
SGD_DECAY = 5e-4
BATCH = 32  # batch size of the table's rates; SGD's also serve all larger ones (its papers use them at 128)
BATCHES = ((5_000, 32), (20_000, 64))  # below this number of samples, this batch size
LARGE_BATCH = 128
HELD_BELOW = 5_000  # number of samples below which BatchNorm's statistics are held
WARMUP = 0.05  # of training
SGD_LIKE, ADAM_LIKE = {"sgd", "momentum", "sgdp", "sgdw"}, {"adam", "adamw", "adamp", "nadam", "nadamw", "radam"}


def fit(recipe: Recipe, facts: Facts) -> tuple[Recipe, dict[str, str]]:
    """Returns the recipe with ``auto`` resolved for optimizer, schedule, batch size, epochs and held statistics, and the reason of each choice.

    Args:
        recipe: the recipe; its explicit settings are kept.
        facts: facts about its data and networks.

    Raises:
        CoterieError: no learning rate is known for the optimizer and none is set, or the warm-up does not fit into the epochs.
    """
    row = TABLE[facts.family, facts.pretrained]
    start = "pretrained" if facts.pretrained else "from nothing"
    because = f"{facts.family}, {start}"
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}

    def choose(key: str, asked: Any, value: Any, reason: str = because) -> Any:
        if asked != AUTO:
            return asked
        chosen[key], reasons[key] = value, reason
        return value

    optimizer, training = recipe.optimizer, recipe.training
    few = f"{facts.samples:,} samples"
    batch = choose("training.batch_size", training.batch_size, _batch(facts.samples), few)
    step = batch * training.accumulate  # samples in an optimizer step
    wanted = math.ceil(row.steps * step / facts.samples)
    epochs = choose("training.epochs", training.epochs, min(max(wanted, row.epochs[0]), row.epochs[1]), few)
    name = choose("optimizer.name", optimizer.name, row.optimizer)
    adam = name in ADAM_LIKE
    if optimizer.learning_rate == AUTO and not adam and name not in SGD_LIKE:
        known = sorted(SGD_LIKE | ADAM_LIKE)
        raise CoterieError(
            f"optimizer.name={name!r}: no rate is known for it{did_you_mean(name, known)}; set optimizer.learning_rate (automatic for {', '.join(known)})"
        )
    rate = row.adam_rate * math.sqrt(step / BATCH) if adam else row.sgd_rate * min(1.0, step / BATCH)
    choose("optimizer.learning_rate", optimizer.learning_rate, float(f"{rate:.2g}"), f"{because}, batch {step}")
    choose("optimizer.weight_decay", optimizer.weight_decay, row.adam_decay if adam else SGD_DECAY, f"of {name}")
    choose("optimizer.exclude_norm_and_bias", optimizer.exclude_norm_and_bias, adam, f"of {name}")
    held = row.held and facts.samples < HELD_BELOW
    choose("network.hold_statistics", recipe.network.hold_statistics, held, f"{because}, {few}")
    choose(
        "schedule.warmup_epochs", recipe.schedule.warmup_epochs, round(WARMUP * epochs, 3), "a twentieth of training"
    )
    return with_settings(recipe, chosen), reasons


def with_settings(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """Returns the recipe with settings replaced, given by full name, and validated again."""
    tree = recipe.model_dump()
    for key, value in values.items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    return load_recipe(tree)


def _batch(samples: int) -> int:
    batch = next((size for limit, size in BATCHES if samples < limit), LARGE_BATCH)
    return min(batch, samples)
