from __future__ import annotations

import os
from pathlib import Path

import pytest

from coterie.data.cache import cache_folder, fingerprint, remembered
from coterie.errors import CoterieError


def test_the_folder_can_be_set(monkeypatch, cache):
    assert cache_folder() == cache
    monkeypatch.delenv("COTERIE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "coterie"


def test_a_fingerprint_changes_with_path_size_time_and_purpose(tmp_path):
    path = tmp_path / "a"
    path.write_text("abc")
    os.utime(path, ns=(5, 5))
    first = fingerprint([path], "x")
    assert fingerprint([path], "x") == first
    found = {first, fingerprint([path], "y"), fingerprint([path, path], "x")}
    os.utime(path, ns=(5, 6))
    found.add(fingerprint([path], "x"))
    path.write_text("abcd")
    os.utime(path, ns=(5, 5))
    found.add(fingerprint([path], "x"))
    assert len(found) == 5
    with pytest.raises(CoterieError, match=r"cannot read .*No such file"):
        fingerprint([tmp_path / "b"], "x")


def test_a_value_is_computed_once_for_each_key(cache):
    calls = []
    for key in ("a", "a", "b"):
        assert remembered("things", key, lambda: calls.append(1) or [1, "two"]) == [1, "two"]
    assert len(calls) == 2
    (cache / "things" / "a.json").write_text("damaged {")
    assert remembered("things", "a", lambda: 3) == remembered("things", "a", lambda: 4) == 3


def test_a_cache_that_cannot_be_written_only_costs_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "file"))
    assert remembered("things", "a", lambda: 3) == 3
    assert remembered("things", "a", lambda: 4) == 4
