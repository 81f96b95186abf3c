"""The embedded data set: the docstrings of Python's standard library, read from its source files without importing or running them.

Its content depends on the Python version, which is therefore part of the set's name: metrics are comparable between runs on the same version only.
"""

from __future__ import annotations

import ast
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from coterie.data.cache import fingerprint, remembered
from coterie.errors import CoterieError

# Folders with tests or installed packages.
PASSED_OVER = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def stdlib_name() -> str:
    """Returns the set's name with the Python version, such as ``stdlib of Python 3.11.7``."""
    return f"stdlib of Python {platform.python_version()}"


def stdlib_files(root: Path | None = None) -> list[Path]:
    """Returns the library's source files without tests, sorted.

    Args:
        root: the library's folder; null: the running interpreter's.

    Raises:
        CoterieError: there are none, since some distributions ship the library compiled or in an archive.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    found = []
    for place, folders, names in os.walk(root):
        folders[:] = [each for each in folders if each not in PASSED_OVER]  # there may be many installed packages
        found += [Path(place, name) for name in names if name.endswith(".py")]
    found.sort()
    if not found:
        raise CoterieError(
            f"data=stdlib: {str(root)!r} holds no source files of Python's standard library; bring a file or folder"
        )
    return found


def stdlib_docstrings(root: Path | None = None) -> list[tuple[str, str]]:
    """Returns each docstring once, with the dotted name of the first module that has it, in the order of modules and lines.

    Files that are missing, cannot be read or do not parse are skipped. The result is cached, since parsing takes several seconds.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    files = stdlib_files(root)
    key = fingerprint(files, f"docstrings 1, Python {platform.python_version()}")
    found = remembered("stdlib", key, lambda: _unique(root, files))
    return [(module, docstring) for module, docstring in found]


def stdlib_definitions(root: Path | None = None) -> list[tuple[str, str, str]]:
    """Returns module, name and docstring of each definition, each docstring once, see :func:`stdlib_docstrings`.

    A module's own docstring has the last part of the module's name.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    files = stdlib_files(root)
    key = fingerprint(files, f"definitions 1, Python {platform.python_version()}")
    found = remembered("stdlib", key, lambda: _unique_definitions(root, files))
    return [(module, name, docstring) for module, name, docstring in found]


def _unique(root: Path, files: list[Path]) -> list[tuple[str, str]]:
    return [(module, docstring) for module, _, docstring in _unique_definitions(root, files)]


def _unique_definitions(root: Path, files: list[Path]) -> list[tuple[str, str, str]]:
    first: dict[str, tuple[str, str]] = {}
    for path in files:
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for name, docstring in _docstrings(path):
            first.setdefault(docstring, (module, name or module.rpartition(".")[2]))
    return [(module, name, docstring) for docstring, (module, name) in first.items()]


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yields name (empty: the module) and dedented docstring of the module, its classes and functions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old escapes in the library's sources
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and docstring.strip():
                yield getattr(node, "name", ""), docstring
        # Definitions occur in statements and exception handlers, never in expressions.
        inner = [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt | ast.excepthandler)]
        waiting.extend(reversed(inner))
