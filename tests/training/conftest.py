"""What tests of training share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.run_folder import RunFolder
from coterie.running import outcome


@pytest.fixture
def real_report():
    """For a test that needs the report itself, see :func:`short_report`."""


@pytest.fixture(autouse=True)
def short_report(request):
    """A line in place of the report, which takes as long as all the rest of a training here and is tested in tests/report.

    By a patch of its own: a test that undoes its patches keeps this one.
    """

    def write(path: Path, *_: Any, **__: Any) -> None:
        RunFolder(path).report.write_text("a report")

    with pytest.MonkeyPatch.context() as patch:
        if "real_report" not in request.fixturenames:
            patch.setattr(outcome, "write_report", write)
        yield
