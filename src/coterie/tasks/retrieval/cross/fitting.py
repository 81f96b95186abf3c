"""First stage of dual pooling: trains a joint encoder to score pairs by the inner product of its two vectors, before it teaches a student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from coterie.data.cache import cache_folder
from coterie.errors import RunError
from coterie.files import write_atomically
from coterie.randomness import derive_seed, seeded
from coterie.tasks.retrieval.cross.encoder import JointEncoder, Pair

TEMPERATURE = 0.05  # as in the students' losses
WARM_UP = 0.1  # of the steps
WEIGHT_DECAY = 0.01
LARGEST_GRADIENT = 1.0
FOLDER = "retrieval_teachers"

Group = Sequence[Pair]  # a query with its own document, and with others that are not relevant


def fit_joint_encoder(
    joint: JointEncoder, groups: Sequence[Group], *, epochs: int, learning_rate: float, batch_size: int, seed: int, device: torch.device
) -> None:  # fmt: skip
    """Train the joint encoder in place to score a query's own document highest (softmax cross-entropy, temperature 0.05, AdamW, linear warm-up and decay).

    This is a reconstruction: it is known that the paper fine-tunes its cross-encoder with the dual-pooling scorer, but not with which loss and settings.

    Args:
        joint: the encoder, with vectors of length 1; on the CPU before and after.
        groups: one for each training pair, its own document first.
        epochs: passes over all groups, in a different order each time.
        learning_rate: peak learning rate.
        batch_size: approximate number of pairs per batch.
        seed: seed of order and dropout.
        device: device to train on.

    Raises:
        RunError: weights are not finite.
    """
    together = max(1, batch_size // max(map(len, groups)))
    steps = epochs * -(-len(groups) // together)
    joint.to(device).train()
    optimizer = torch.optim.AdamW(joint.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    warm_up = max(1, round(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))
    )
    with seeded(derive_seed(seed, "dual pooling")):
        for epoch in range(epochs):
            order = np.random.default_rng(derive_seed(seed, "dual pooling", epoch)).permutation(len(groups))
            for start in range(0, len(groups), together):
                loss = group_loss(joint, [groups[number] for number in order[start : start + together]], device)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(joint.parameters(), LARGEST_GRADIENT)
                optimizer.step()
                schedule.step()
    joint.to("cpu").eval()
    if not all(bool(torch.isfinite(each).all()) for each in joint.parameters()):
        raise RunError("the teacher's first stage has diverged: lower teacher.learning_rate")


def group_loss(joint: JointEncoder, groups: Sequence[Group], device: torch.device) -> Tensor:
    """Return the cross-entropy of the first pair among all pairs of a group, mean over groups, 0-d in nats."""
    queries, documents = joint(joint.tokens([pair for group in groups for pair in group], device))
    scores = (queries * documents).sum(-1) / TEMPERATURE
    parts = scores.split([len(group) for group in groups])
    return torch.stack([torch.logsumexp(part, 0) - part[0] for part in parts]).mean()


def fitted_once(joint: JointEncoder, key: str, fit: Callable[[], None]) -> bool:
    """Load the trained weights from the cache folder; if they are not there, train and write them.

    Args:
        joint: the encoder whose weights are set.
        key: digest of network, texts and settings.
        fit: trains the encoder.

    Returns:
        Whether this call trained it.

    Raises:
        RunError: the cache folder cannot be written.
    """
    path = cache_folder() / FOLDER / f"{key}.safetensors"
    try:
        joint.body.load_state_dict(load_file(path), strict=True)
        return False
    except (OSError, SafetensorError, RuntimeError):
        fit()
    state = {name: value.detach().cpu().contiguous().clone() for name, value in joint.body.state_dict().items()}

    def write(temporary: Path) -> None:
        save_file(state, temporary)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)
    return True
