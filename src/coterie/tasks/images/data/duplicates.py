"""Finds images that are in two splits: figures on held-out images that were trained on are too good."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from coterie.tasks.images.data.raw import Arrays, Files, Samples


def digests(samples: Samples) -> NDArray[np.uint64] | None:
    """Returns a digest of each image's size and decoded pixels, uint64 [N]; None if the pixels were not read (objects; very many files)."""
    if isinstance(samples, Files):
        return samples.digests
    if not isinstance(samples, Arrays):
        return None
    found = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in samples.images)
    return np.frombuffer(b"".join(found), dtype="<u8").astype(np.uint64)


def find_duplicates(splits: dict[str, Samples]) -> tuple[dict[str, int], list[str]]:
    """Finds images with identical pixels: held-out images that are also training images, and images with two classes.

    Args:
        splits: the splits by name, including ``train``.

    Returns:
        For each held-out split, how many of its images are also training images (without splits whose pixels were not read); and notes
        about the findings, in sentences.
    """
    train = digests(splits["train"])
    if train is None:
        return {}, []
    counts, notes = {}, []
    for split, samples in splits.items():
        own = digests(samples) if split != "train" else None
        if own is None or samples is splits["train"]:
            continue
        count = counts[split] = int(np.isin(own, train).sum())
        if count:
            notes.append(
                f"{count} of the {len(own)} {split} images {'are' if count > 1 else 'is'} among the training images too, pixel by pixel: "
                f"figures on {split} are too good by that"
            )
    pairs = np.unique(np.stack([train, splits["train"].labels.astype(np.uint64)]), axis=1)[0]
    contradictory = int((np.unique(pairs, return_counts=True)[1] > 1).sum())
    if contradictory:
        notes.append(
            f"{contradictory} training image{'s stand' if contradictory > 1 else ' stands'} under more than one class, pixel by pixel"
        )
    return counts, notes
