"""Samples that are named on a command line, where they are the words themselves. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coterie.run_folder import RunFolder


def as_they_stand(inputs: Sequence[str], folder: RunFolder, lines: Callable[[], list[str]]) -> list[str]:
    """Each word is a sample, ``-`` stands for the lines of standard input."""
    return [sample for each in inputs for sample in (lines() if each == "-" else [each])]
