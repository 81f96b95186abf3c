"""Fingerprints of a run's data (classes, their samples and content), independent of location, and differences between two fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

NAMED = 3  # number of differences in a message


def fingerprint(
    class_names: Sequence[str],
    splits: Mapping[str, Any],
    preparation: Mapping[str, Any],
    digests: Callable[[Any], list[bytes]],
) -> dict[str, Any]:
    """Returns a JSON object with the classes in order, and count and digest of each class's samples in each split.

    Args:
        class_names: names in the order of class indices.
        splits: samples of any kind with ``labels``.
        preparation: the source's description of how its samples are prepared.
        digests: for each split, the digest of each sample, see :func:`digest`; empty if the content is not read.
    """
    return {
        "classes": list(class_names),
        "preparation": dict(preparation),
        "splits": {name: _split(samples, class_names, digests(samples)) for name, samples in splits.items()},
    }


def digest(shape: Iterable[int], content: Any) -> bytes:
    """Returns the digest of a sample's content, a buffer of bytes."""
    found = hashlib.blake2b(repr(tuple(shape)).encode(), digest_size=8)
    found.update(content)
    return found.digest()


def _split(samples: Any, class_names: Sequence[str], digests: Sequence[bytes]) -> dict[str, Any]:
    classes = {}
    for label in np.unique(samples.labels).tolist():
        members = np.flatnonzero(samples.labels == label).tolist()
        whole = hashlib.blake2b(digest_size=8)
        for number in members:
            whole.update(digests[number])
        classes[class_names[label]] = [len(members), whole.hexdigest()]
    order = hashlib.blake2b(np.ascontiguousarray(samples.labels).tobytes(), digest_size=8)
    return {"samples": len(samples), "order": order.hexdigest(), "classes": classes}


def differences(stored: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Describes how ``found`` differs from what a run was started with, most informative first; empty if they agree."""
    named = _of_classes(list(stored["classes"]), list(found["classes"]))
    if named:
        return named
    result = []
    for split in ("train", "validation", "test"):
        before, now = stored["splits"].get(split), found["splits"].get(split)
        if before == now:
            continue
        if before is None or now is None:
            result.append(f"there is {'no' if now is None else 'a'} {split} split now")
            continue
        result += _of_split(split, before, now)
    if not result and stored["preparation"] != found["preparation"]:
        result.append("its source says otherwise how images are normalised or mirrored")
    return result


def _of_classes(before: list[str], now: list[str]) -> list[str]:
    if before == now:
        return []
    gone, new = [name for name in before if name not in now], [name for name in now if name not in before]
    if not gone and not new:
        return ["the classes are in another order"]
    if len(gone) == len(new) == 1 and before.index(gone[0]) >= 0:
        return [f"the class {gone[0]!r} is called {new[0]!r} now"]
    parts = [f"the class {name!r} is gone" for name in gone] + [f"the class {name!r} is new" for name in new]
    return parts[:NAMED] + ([f"{len(parts) - NAMED} more"] if len(parts) > NAMED else [])


def _of_split(split: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if before["samples"] != now["samples"]:
        return [f"{split} has {now['samples']} samples, not {before['samples']}"]
    names = [*before["classes"], *(name for name in now["classes"] if name not in before["classes"])]
    changed = [name for name in names if before["classes"].get(name) != now["classes"].get(name)]
    if not changed:
        return [f"{split} is in another order"]
    listing = ", ".join(map(repr, changed[:NAMED])) + (
        f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    )
    of = "" if changed == [""] else f" of {listing}"  # data without classes are one unnamed part
    return [f"{split} samples{of} are others"]
