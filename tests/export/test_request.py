"""What an export is refused for, before torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coterie.tasks import find_named, find_part, known_tasks

REFUSED = """
import sys
from coterie.errors import CoterieError
from coterie.export import export_run
try:
    export_run({run!r}, **{options!r})
except CoterieError as error:
    print("torch" in sys.modules, error)
"""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"push": "no name"}, "--push 'no name'"),
        ({"format": "onxn"}, "did you mean 'onnx'"),
        ({"int8": True}, "--int8 is for format 'onnx'"),
        ({"private": True}, "--private is of a repository"),
    ],
)
def test_a_refusal_waits_for_no_torch(small_run, options, reason):
    code = REFUSED.format(run=str(small_run[0]), options=options)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False ")
    assert reason in done.stdout


def test_every_format_has_a_writer_and_every_task_a_plain_format_first():
    for task in known_tasks():
        formats = find_part(task, "formats")
        assert not formats[0].ensembles
        for each in formats:
            assert callable(find_named(each.writer))
            assert not each.quantizer or callable(find_named(each.quantizer))
