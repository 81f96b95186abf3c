"""Describes the environment of a run: versions, machine, threads, command."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("coterie", "torch", "torchvision", "timm", "accelerate", "numpy", "scikit-learn")
OPTIONAL = ("transformers", "tokenizers")


def _versions() -> dict[str, str]:
    """Returns the versions of packages that results may depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name in OPTIONAL:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | {"python": platform.python_version()}


def git_commit() -> str | None:
    """Returns the commit of the checkout that coterie is imported from, with ``-dirty`` if it has changes; None outside of a checkout."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() or None if commit.returncode == 0 else None


def describe_environment(device: torch.device, seed: int, processes: int) -> dict[str, Any]:
    """Returns the content of ``environment.json``."""
    return {
        "versions": _versions(),
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "seed": seed,
        "command": sys.argv,
    }
