"""The package is a house: what stands on a floor imports only from its own floor and from below, and nothing in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import coterie

ROOT = Path(coterie.__file__).parent
# From the roof to the ground. What stands in one row may import from one another, so long as no circle results.
FLOORS = [
    ["__main__", "cli"],
    ["coterie"],
    ["export"],
    ["comparison"],
    ["benchmark"],
    ["running"],
    ["report"],
    ["training"],
    ["integrations", "prediction", "student", "tasks"],
    ["methods"],
    ["networks"],
    ["data"],
    ["run_folder", "run_lock", "run_schema"],
    ["recipe"],
    ["losses"],
    ["metrics"],
    ["catalogue", "documents", "files", "terminal", "version"],
    ["tasks.__init__", "tasks.figures"],  # a table of names, and what each task declares: read on every floor
    ["errors", "randomness"],
]


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """Each module's imports of the package, those within functions and those for types included."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "coterie":
                submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
                found[name] |= submodules or {str(node.module)}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "coterie"}
    return found


def floor(module: str) -> int:
    top = module.split(".")[1] if "." in module else "coterie"
    exact = "tasks.__init__" if module == "coterie.tasks" else module.removeprefix("coterie.")
    rooms = {name: number for number, names in enumerate(FLOORS) for name in names}
    return rooms[exact] if exact in rooms else rooms[top]


def test_every_module_has_a_floor():
    names = {name.split(".")[1] for name in modules() if "." in name}
    assert names == {name.partition(".")[0] for names in FLOORS for name in names} - {"coterie"}


def test_imports_point_downwards():
    upwards = [
        f"{name} -> {other}" for name, others in imports().items() for other in others if floor(other) < floor(name)
    ]
    assert not upwards


def test_nothing_imports_in_a_circle():
    graph = imports()
    clean: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in clean:
            return
        for other in graph.get(name, set()):
            visit(other, (*path, name))
        clean.add(name)

    for name in graph:
        visit(name, ())


def test_no_wing_imports_from_another():
    wings = {}
    for name, others in imports().items():
        if name.startswith("coterie.tasks.") and name.count(".") > 2:
            wing = name.split(".")[2]
            wings |= {
                f"{name} -> {other}": None
                for other in others
                if other.startswith("coterie.tasks.") and other.count(".") > 2 and other.split(".")[2] != wing
            }
    assert not wings
