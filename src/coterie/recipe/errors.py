"""Error messages for invalid recipes: the setting's name, its value, what was expected, the nearest known spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from pydantic import ValidationError

from coterie.errors import did_you_mean

# What other trainers call a setting.
ABBREVIATIONS = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "bs": "training.batch_size",
    "batch": "training.batch_size",
    "model": "network.name",
    "arch": "network.name",
    "dataset": "data.name",
    "opt": "optimizer.name",
    "epoch": "training.epochs",
    "warmup": "schedule.warmup_epochs",
    "img_size": "data.image_size",
    "device": "training.device",
}


def explain(
    error: ValidationError, known: Sequence[str], others: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> str:
    """Describes the first problem in one line, by the names that users know.

    Args:
        error: pydantic's error.
        known: full names of all settings of the recipe's task.
        others: full names of the settings of every task, by task.
    """
    errors = error.errors()
    first = max(
        (each for each in errors if _place(each["loc"], known)[:2] == _place(errors[0]["loc"], known)[:2]),
        key=lambda each: len(_place(each["loc"], known)),
    )
    place = _place(first["loc"], known)
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        inside = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
        meant = ABBREVIATIONS.get(key.rpartition(".")[2]) if key.count(".") < 2 else None
        meant = meant or next((name for name in known if "." not in key and name.endswith(f".{key}")), None)
        near = f" (did you mean {meant!r}?)" if meant else did_you_mean(key, inside)
        if owners := [task for task, keys in others.items() if key in keys]:
            return f"{key} is a setting of task={' and '.join(owners)}, not of this recipe's"
        near = near or did_you_mean(key, known) or _same_last_word(key, known)
        if not near and "." not in key:
            elsewhere = [
                f"{name} of task={task}" for task, keys in others.items() for name in keys if name.endswith(f".{key}")
            ]
            near = f" (did you mean {elsewhere[0]}?)" if elsewhere else ""
        listing = "" if near else f"; expected one of {', '.join(k.rpartition('.')[2] for k in inside)}"
        return f"unknown setting {key!r}{near}{listing}"
    # For a setting that accepts several types, list what each type expected.
    messages = [each["msg"].removeprefix("Value error, ") for each in errors if _place(each["loc"], known) == place]
    if not key:
        return messages[0]
    if first["type"] == "model_type" and (within := [name for name in known if name.startswith(f"{key}.")]):
        return f"{key}={first['input']!r} is not a section: expected settings in it, such as {within[0]}=..."
    if first["type"] == "value_error" and isinstance(
        first["input"], Mapping
    ):  # a check of several settings names those that it is about
        return f"{key}: {messages[0]}"
    if len(messages) > 1:
        kinds = sorted({message.partition(",")[0].removeprefix("Input should be ") for message in messages})
        messages = [f"input should be {' or '.join(kinds)}"]
    return f"{key}={first['input']!r}: {messages[0][0].lower()}{messages[0][1:]}"


def _place(location: Sequence[int | str], known: Sequence[str]) -> list[str]:
    """Returns the setting that a pydantic location refers to: section, name and list indices, without pydantic's names for members of a union."""
    place: list[str] = []
    for part in location:
        names = [each for each in place if not each.isdecimal()]
        section = f"{'.'.join(names)}."
        if isinstance(part, int) or len(names) < 2 or any(each.startswith(section) for each in known):
            place.append(str(part))
    return place


def _same_last_word(key: str, known: Iterable[str]) -> str:
    """Suggests a setting whose last word is similar: ``epochs`` means ``training.epochs``, because people leave out the section."""
    inner = {name.rpartition(".")[2]: name for name in reversed(list(known)) if "." in name}
    near = difflib.get_close_matches(key.rpartition(".")[2], inner, n=1, cutoff=0.75)
    return f" (did you mean {inner[near[0]]!r}?)" if near else ""
