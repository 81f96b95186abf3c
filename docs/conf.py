"""The documentation site: `make docs` builds it, with warnings as errors.

Pages are Markdown (MyST). Two parts are made when it is built, and kept out of the repository: the API reference, from docstrings, and
the tables of benchmarks/results, copied beside the pages, so that the site holds every figure that a page quotes. Links to scripts are
downloads.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import coterie
from coterie.version import __version__

PAGES = Path(__file__).parent
SOURCE = Path(coterie.__file__).parent
TABLES = PAGES.parent / "benchmarks" / "results"

project = "coterie"
author = "The coterie authors"
copyright = "The coterie authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"coterie {version}"
html_copy_source = False
html_show_sphinx = False


def _write_api_pages(_app: Any) -> None:
    """One page for each package of formulas and methods, a section for each module: a new file is on the site without being listed."""
    for package in ("losses", "methods", "metrics"):
        lines = [
            f"# coterie.{package}",
            "",
            "```{eval-rst}",
            f".. automodule:: coterie.{package}",
            "   :no-members:",
            "",
        ]
        folder = SOURCE / package
        for path in sorted(folder.rglob("*.py")):
            if path.name != "__init__.py":
                name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
                lines += [name, "-" * len(name), "", f".. automodule:: {name}", ""]
        (PAGES / "api" / f"{package}.md").write_text("\n".join([*lines, "```", ""]))


def _copy_tables(_app: Any) -> None:
    target = PAGES / "results"
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(TABLES.rglob("*.md")):
        copy = target / path.relative_to(TABLES)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())


def _link_tables(_app: Any, page: str, content: list[str]) -> None:
    """Links that lead out of docs/ to a table lead to its copy."""
    if not page.startswith("results/"):
        content[0] = re.sub(r"\]\((?:\.\./)+benchmarks/results/([^)#]*\.md)", r"](/results/\1", content[0])


def setup(app: Any) -> None:
    app.connect("builder-inited", _write_api_pages)
    app.connect("builder-inited", _copy_tables)
    app.connect("source-read", _link_tables)
