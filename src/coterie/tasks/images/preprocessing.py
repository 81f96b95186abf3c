"""Metadata of exported files that describes the preprocessing of images, for programs without coterie."""

from __future__ import annotations

import json
import math
from typing import Any


def resized(description: dict[str, Any]) -> list[int]:
    """Returns the height and width that the resized image must cover, with its aspect ratio kept, before the centre crop; as in timm's transform."""
    return [math.floor(side / description["crop"]) for side in description["input_size"][1:]]


def image_metadata(description: dict[str, Any], which: str) -> dict[str, str]:
    """Returns the metadata of an ONNX file, with every value as JSON.

    Args:
        description: content of ``student.json``.
        which: student, a student's number, ensemble or method.
    """
    channels = description["input_size"][0]
    values = {
        "task": "image_classification",
        "class_names": description["class_names"],
        "input_size": description["input_size"],  # channels, height, width
        "colour": {1: "L", 3: "RGB"}.get(channels),  # Pillow's mode; null: images have no such number of channels
        "mean": description["mean"],  # of pixels in 0..1
        "std": description["std"],
        "interpolation": description["interpolation"],
        "crop_pct": description["crop"],
        "crop_mode": "center",
        "resize": resized(description),
        "output": "log_probabilities" if which == "ensemble" else "logits",
        "which": which,
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
