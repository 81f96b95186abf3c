"""What ``import coterie`` gives: names and sub-packages, imported when they are used."""

from __future__ import annotations

from pathlib import Path

import pytest

import coterie

MODULES = sorted(
    path.stem if path.is_file() else path.name
    for path in Path(coterie.__file__).parent.iterdir()
    if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").is_file())
)


def test_every_sub_package_is_reachable_after_import_coterie() -> None:
    assert {"methods", "losses", "networks", "data", "report"} <= set(MODULES)
    for name in MODULES:
        assert coterie.__getattr__(name).__name__ == f"coterie.{name}"
    assert set(MODULES) <= set(dir(coterie))


@pytest.mark.parametrize("name", ["method", "Branch", "__path", "_location", "tests"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(coterie, name)
