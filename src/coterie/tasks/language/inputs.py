"""Prompts that are named on a command line. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coterie.run_folder import RunFolder


def find_samples(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[str]:
    """The prompts as they stand, ``-`` for a list on standard input."""
    return [text for each in inputs for text in (lines() if each == "-" else [each])]
