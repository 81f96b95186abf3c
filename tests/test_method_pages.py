"""Pages of methods: one set of headings, and tables of settings that give the code's own names and defaults."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

import pytest
import yaml

from coterie.methods import TABLE, find_method
from coterie.methods.options import option_fields

PAGES = sorted((Path(__file__).parents[1] / "docs" / "methods").glob("*.md"))
HEADINGS = ["Idea", "Formula", "Settings", "Cost", "When to use it", "Figures"]
TABLE_OF_SETTINGS = re.compile(r"^\| setting \| default \|.*\n\|[-: |]*\n((?:\|.*\n)+)", re.MULTILINE)


def methods_of(text: str) -> list[str]:
    """Those that the page's title names."""
    return re.findall(r"`(\w+)`", text.splitlines()[0])


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def plain(default: object) -> object:
    """A default as a recipe's YAML would have it."""
    if isinstance(default, Enum):
        return default.value
    if isinstance(default, tuple | list):
        return [plain(each) for each in default]
    return default


def rows_of(section: str) -> dict[str, str]:
    """Cells of defaults by setting; a row may hold several, in their order."""
    found = {}
    for row in TABLE_OF_SETTINGS.search(section)[1].splitlines():
        names, defaults = (cell.strip() for cell in row.strip("|").split(" | ")[:2])
        several = re.findall(r"`(\w+)`", names)
        cells = defaults.split(", ") if len(several) > 1 and ", " in defaults else [defaults] * len(several)
        found |= dict(zip(several, cells, strict=True))
    return found


def read(cell: str) -> object:
    """The value in a cell: what stands in backticks, else what stands before an explanation."""
    marked = re.match(r"`([^`]*)`", cell)
    text = marked[1] if marked else cell.split(";")[0].split(" (")[0].strip()
    share = re.fullmatch(r"(\d+) ?(?:/|of) ?(\d+)(?: epochs)?", text)  # of the epochs, as papers have it
    return int(share[1]) / int(share[2]) if share else yaml.safe_load(text)


def same(written: object, default: object) -> bool:
    if default is None:  # the page says in words what comes in its place
        return True
    if isinstance(default, bool | str):
        return written == default
    if isinstance(default, int | float):
        return float(written) == pytest.approx(float(default), rel=2e-3)  # YAML reads 1e-3 as text
    if isinstance(default, list):
        written = written if isinstance(written, list) else [written]
        return len(written) == len(default) and all(map(same, written, default))
    return written == default


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_have_one_set_of_headings(page):
    found = re.findall(r"^## (.*)$", without_code(page.read_text("utf-8")), re.MULTILINE)
    assert found == HEADINGS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_are_those_of_the_code(page):
    text = page.read_text("utf-8")
    section = text.split("\n## Settings\n")[1].split("\n## ")[0]
    rows = rows_of(section)
    fields = {name: default for method in methods_of(text) for name, (_, default) in option_fields(find_method(method)).items()}  # fmt: skip
    assert set(rows) == set(fields)
    wrong = {name: (cell, fields[name]) for name, cell in rows.items() if not same(read(cell), plain(fields[name]))}
    assert wrong == {}


def test_every_method_stands_on_a_page():
    texts = "\n".join(page.read_text("utf-8") for page in PAGES)
    assert [name for name in TABLE if f"`{name}`" not in texts] == []
