"""Pairs of a query and its document from docstrings of installed packages: the first sentence with the symbol's name masked, and the rest.

Modules drawn for the test split are in no training pair. Tests of packages, and docstrings whose sentence or rest duplicates another's, are left out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
from pathlib import Path

import numpy as np

from coterie.data.stdlib import stdlib_definitions
from coterie.files import write_json, write_text
from coterie.tasks.retrieval.data.docstrings import split_docstring

PACKAGES = {"numpy": "numpy", "sklearn": "scikit-learn", "networkx": "networkx"}
TEST_SHARE = 0.2


def write_pairs(folder: Path) -> Path:
    """Write ``train.jsonl`` and ``test.jsonl`` to a folder, and their contents in ``pairs.json``; existing files are kept."""
    if (folder / "pairs.json").is_file():
        return folder
    rows, seen = [], set()
    for package in (None, *PACKAGES):
        root = None
        if package is not None:
            found = importlib.util.find_spec(package)
            if found is None or not found.submodule_search_locations:
                raise SystemExit(f"{package} is not installed, and its docstrings are part of the data")
            root = Path(found.submodule_search_locations[0])
        for module, name, docstring in stdlib_definitions(root):
            pair = split_docstring(name, docstring)
            if pair is None or "tests" in module.split(".") or {pair[0].lower(), pair[1].lower()} & seen:
                continue
            seen |= {pair[0].lower(), pair[1].lower()}
            rows.append((f"{package or 'python'}.{module}", *pair))
    modules = sorted({module for module, _, _ in rows})
    order = np.random.default_rng(0).permutation(len(modules))
    test = {modules[number] for number in order[: round(TEST_SHARE * len(modules))]}
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split in ("train", "test"):
        lines = [
            json.dumps({"query": query, "document": document})
            for module, query, document in rows
            if (module in test) == (split == "test")
        ]
        counts[split] = len(lines)
        write_text(folder / f"{split}.jsonl", "\n".join(lines) + "\n")
    packages = {name: importlib.metadata.version(name) for name in PACKAGES.values()}
    write_json(folder / "pairs.json", {**counts, "packages": {"python": platform.python_version(), **packages}})
    return folder
