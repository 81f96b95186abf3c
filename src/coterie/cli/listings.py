"""The output of ``coterie list``. Nothing here imports torch, except listing timm's networks."""

from __future__ import annotations

import fnmatch
import json
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path

import typer
from pydantic.fields import FieldInfo

from coterie.errors import CoterieError, did_you_mean
from coterie.terminal import printable


def print_line(text: str) -> None:
    typer.echo(printable(text))


def _matching(names: Iterable[str], pattern: str | None, kind: str, words: Iterable[str] = ()) -> list[str]:
    """Returns names that contain the pattern's text, or that match it if it has ``*``, ``?`` or ``[``.

    Raises:
        CoterieError: no name matches; the message suggests a near spelling among the names and ``words``.
    """
    names = list(names)
    if pattern is None:
        return names
    wanted = pattern if any(each in pattern for each in "*?[") else f"*{pattern}*"
    if found := [name for name in names if fnmatch.fnmatch(name.lower(), wanted.lower())]:
        return found
    raise CoterieError(f"no {kind} fits {pattern!r}{did_you_mean(pattern, [*names, *words])}")


def list_methods(pattern: str | None) -> None:
    from coterie.methods import TABLE

    found = _matching(TABLE, pattern, "method")
    for kind in dict.fromkeys(TABLE[name].kind for name in found):
        print_line(f"[{kind}]")
        for name in found:
            entry = TABLE[name]
            if entry.kind == kind:
                print_line(f"  {name:<12} {entry.summary}{f' ({entry.paper})' if entry.paper else ''}")


def list_networks(pattern: str | None) -> None:
    from coterie.catalogue import NETWORKS

    if pattern is None:
        for name, line in NETWORKS.items():
            print_line(f"  {name:<26} {line}")
        print_line("and every name of timm.list_models(): coterie list networks FILTER, such as mobilenet")
        return
    import timm

    others = [name for name in timm.list_models() if name not in NETWORKS]
    pretrained = {name.partition(".")[0] for name in timm.list_pretrained()}
    for name in _matching([*NETWORKS, *others], pattern, "network"):
        says = NETWORKS.get(name, "timm, with pretrained weights" if name in pretrained else "timm")
        print_line(f"  {name:<26} {says}")


def list_data(pattern: str | None) -> None:
    from coterie.tasks import find_part, known_tasks

    sets = {task: find_part(task, "settings").data.names for task in known_tasks()}
    wanted = set(_matching([name for names in sets.values() for name in names], pattern, "data set"))
    for task, names in sets.items():
        if shown := [name for name in names if name in wanted]:
            print_line(f"[task={task}]")
        for name in shown:
            print_line(f"  {name:<16} {names[name]}")


def list_recipes(pattern: str | None) -> None:
    """Lists the recipes in recipes/ of the working directory, or else the installed ones."""
    from coterie.recipe.published import published_recipes

    own = {str(path): path for path in sorted(Path("recipes").glob("*.yaml"))}
    found = own or published_recipes()
    for name in _matching(found, pattern, "recipe"):
        first = found[name].read_text(encoding="utf-8").partition("\n")[0]
        print_line(f"  {name:<48} {first.lstrip('# ')}")


def list_settings(pattern: str | None) -> None:
    """Lists the settings of a section or task, those whose name matches, or all; for sections that tasks define, each task's in turn."""
    from coterie.recipe.recipe import BY_TASK, recipe_of, settings_in
    from coterie.tasks import known_tasks

    fields = {task: recipe_of(task).model_fields for task in known_tasks()}
    if (pattern or "").removeprefix("task=") in fields:
        task = (pattern or "").removeprefix("task=")
        fields, pattern = {task: fields[task]}, None
    sections = list(next(iter(fields.values())))
    section = pattern.rstrip(".") if pattern is not None else None
    found: dict[tuple[str, str], FieldInfo] = {}  # by task (empty: of every task) and full name
    for name in [section] if section in sections else sections:
        for task, own in fields.items() if name in BY_TASK else [("", next(iter(fields.values())))]:
            found |= {(task, key): field for key, field in settings_in(name, own[name]).items()}
    keys = {key for _, key in found}
    wanted = (
        keys
        if section in sections
        else set(_matching(keys, pattern, "setting", {*sections, *(key.rpartition(".")[2] for key in keys)}))
    )
    shown: str | None = None
    for (task, key), field in found.items():
        if key not in wanted:
            continue
        if task != shown:
            print_line(f"[task={task}]" if task else "[every task]")
            shown = task
        default = field.get_default(call_default_factory=True)
        value = default if isinstance(default, str) else json.dumps(default, default=str)
        print_line(f"  {key}={value}\n      {value_of(field)}{'. ' + field.description if field.description else ''}")


def list_tasks(pattern: str | None) -> None:
    from coterie.tasks import find_row, known_tasks

    for name in _matching(known_tasks(), pattern, "task"):
        print_line(f"  {name:<22} {find_row(name).line}")


def value_of(field: FieldInfo) -> str:
    """Describes the values of a setting: its type, choices and bounds."""
    limits = [*field.metadata, *_limits_inside(field.annotation)]
    bounds = [
        f"{sign} {getattr(limit, attribute):g}"
        for limit in limits
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(limit, attribute, None) is not None
    ]
    return ", ".join([type_name(field.annotation), *bounds])


def _limits_inside(annotation: object) -> list[object]:
    """Returns the bounds of an optional value, which are inside the union."""
    limits: list[object] = []
    for each in typing.get_args(annotation) if is_union(annotation) else ():
        if typing.get_origin(each) is typing.Annotated:
            for limit in typing.get_args(each)[1:]:
                limits += limit.metadata if isinstance(limit, FieldInfo) else [limit]
    return limits


def is_union(annotation: object) -> bool:
    return typing.get_origin(annotation) in {typing.Union, types.UnionType}


def type_name(annotation: object) -> str:
    """Returns the name of a type in users' terms."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if is_union(annotation):
        return " | ".join(type_name(each) for each in arguments)
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return "mapping"
    names = {int: "integer", float: "number", bool: "true | false", str: "text", type(None): "null"}
    return names.get(annotation, "sections like `teacher`, or run folders")  # type: ignore[call-overload]


LISTINGS: dict[str, Callable[[str | None], None]] = {
    "methods": list_methods,
    "networks": list_networks,
    "data": list_data,
    "recipes": list_recipes,
    "tasks": list_tasks,
    "settings": list_settings,
}
