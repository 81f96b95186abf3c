"""How a picture becomes a network's input, as values that a program without coterie reads from the exported file."""

from __future__ import annotations

import json
import math
from typing import Any


def resized(description: dict[str, Any]) -> list[int]:
    """Height and width that a picture is brought to cover, its aspect ratio kept, before the centre is cut out; as timm's transform does it."""
    return [math.floor(side / description["crop"]) for side in description["input_size"][1:]]


def image_metadata(description: dict[str, Any], which: str) -> dict[str, str]:
    """What an ONNX file says of itself, every value as JSON.

    Args:
        description: contents of ``student.json``.
        which: student, a student's number, ensemble or method.
    """
    channels = description["input_size"][0]
    values = {
        "task": "image_classification",
        "class_names": description["class_names"],
        "input_size": description["input_size"],  # channels, height, width
        "colour": {1: "L", 3: "RGB"}.get(channels),  # Pillow's mode; null: no picture has these channels
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
