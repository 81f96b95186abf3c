from __future__ import annotations

import platform

import pytest

from coterie.data.stdlib import stdlib_docstrings, stdlib_files, stdlib_name
from coterie.errors import CoterieError

SOURCE = '''"""The module."""
import never_imported
raise SystemExit("never run")

try:
    def outer():
        """Outer.

            indented
        """
        def inner():
            """Inner."""
except ImportError:
    class Fallback:
        """Fallback."""
        async def method(self):
            """   """
'''


@pytest.fixture
def library(tmp_path):
    files = {
        "b.py": SOURCE,
        "a/__init__.py": '"""Package."""\nclass A:\n    """Outer.\n\n        indented\n    """',
        "a/broken.py": '"""Broken."""\ndef (',
        "a/nothing.py": "",
        "test/test_b.py": '"""A test."""',
        "a/tests/x.py": '"""A test."""',
        "idlelib/idle_test/x.py": '"""A test."""',
        "site-packages/x.py": '"""Installed."""',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_docstrings_come_once_in_order_from_sources_that_are_not_run(library):
    assert stdlib_docstrings(library) == [
        ("a", "Package."),
        ("a", "Outer.\n\nindented"),
        ("b", "The module."),
        ("b", "Inner."),
        ("b", "Fallback."),
    ]


def test_a_file_that_is_gone_or_changed_is_noticed(library):
    stdlib_docstrings(library)
    (library / "a" / "__init__.py").unlink()
    assert stdlib_docstrings(library)[:2] == [("b", "The module."), ("b", "Outer.\n\nindented")]


def test_a_library_without_sources_is_refused(tmp_path):
    with pytest.raises(CoterieError, match="holds no source files of Python's standard library"):
        stdlib_files(tmp_path)


def test_the_name_says_the_version():
    assert stdlib_name() == f"stdlib of Python {platform.python_version()}"


def test_the_running_interpreters_files_are_found_without_tests():
    names = {path.name for path in stdlib_files()}
    assert {"json", "email"} <= {path.parent.name for path in stdlib_files()}
    assert "argparse.py" in names
    assert "test_argparse.py" not in names
