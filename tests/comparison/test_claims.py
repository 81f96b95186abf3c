from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from coterie.comparison import claims
from coterie.comparison.claims import claim, wait_for

HOLDER = """
import sys, time
from coterie.comparison.claims import claim
held = claim(__import__("pathlib").Path(sys.argv[1]))
print(held is not None, flush=True)
time.sleep(60)
"""


def age(path, seconds: float) -> float:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return then


def written_by(path, **owner) -> None:
    """A claim of another process, in one move, as a reader on this machine may meet it."""
    ready = path.with_suffix(".ready")
    ready.write_text(json.dumps({"host": "elsewhere", "pid": 1, "processes": "other", "token": "theirs", **owner}))
    os.replace(ready, path)


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_claim_at_a_time(tmp_path):
    path = tmp_path / "run.claim"
    with claim(path) as held:
        assert held is not None
        assert claim(path) is None
        assert json.loads(path.read_text()).keys() >= {"host", "pid", "time"}
    assert not path.exists()
    with claim(path) as again:
        assert again is not None


@pytest.mark.parametrize("is_stale", [False, True])
def test_of_many_who_try_at_once_one_wins(tmp_path, is_stale):
    path = tmp_path / "run.claim"
    if is_stale:
        written_by(path)
        age(path, 1000)
    with ThreadPoolExecutor(16) as pool:
        held = [each for each in pool.map(lambda _: claim(path), range(64)) if each is not None]
    assert len([each for each in held if each._is_ours()]) == 1
    for each in held:
        each.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_living_process_keeps_its_claim_and_a_killed_one_loses_it(tmp_path):
    path = tmp_path / "run.claim"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "True"
        assert claim(path) is None
    finally:
        holder.kill()
        holder.wait()
    with claim(path) as held:
        assert held is not None
    assert list(tmp_path.iterdir()) == []


def test_another_machines_claim_counts_until_it_was_not_touched_for_long(tmp_path):
    path = tmp_path / "run.claim"
    written_by(path, pid=2**22 + 1)  # no process of that number runs here, which says nothing of another machine
    assert claim(path) is None
    age(path, 100)
    assert claim(path) is None
    age(path, 1000)
    with claim(path) as held:
        assert held is not None


def test_a_claim_cut_short_by_a_crash_is_taken_over_when_it_is_old(tmp_path):
    path = tmp_path / "run.claim"
    path.write_text('{"host": "he')
    assert claim(path) is None
    age(path, 1000)
    with claim(path) as held:
        assert held is not None


def test_the_owner_touches_its_claim(tmp_path):
    path = tmp_path / "run.claim"
    with claim(path, heartbeat=0.02) as held:
        old = age(path, 1000)
        until(lambda: path.stat().st_mtime > old + 500)
        assert not held.lost


def test_one_who_slept_too_long_finds_out_and_leaves_the_new_owners_claim_alone(tmp_path):
    path = tmp_path / "run.claim"
    told = threading.Event()
    with claim(path, heartbeat=0.02, when_lost=told.set) as held:
        assert not told.is_set()
        written_by(path)
        assert told.wait(10)
        assert held.lost
        old = age(path, 1000)
        time.sleep(0.1)
        assert path.stat().st_mtime == pytest.approx(old)  # it does not keep the other one's claim alive
    assert json.loads(path.read_text())["token"] == "theirs"


def test_a_claim_that_is_gone_is_lost(tmp_path):
    path = tmp_path / "run.claim"
    with claim(path, heartbeat=0.02) as held:
        path.unlink()  # taken over, done and given back while the owner slept
        until(lambda: held.lost)


def test_one_who_looked_too_early_gives_a_fresh_claim_back(tmp_path, monkeypatch):
    path = tmp_path / "run.claim"
    written_by(path, token="dead")
    age(path, 1000)
    judge = claims._is_dead

    def slow(*arguments):
        verdict = judge(*arguments)
        written_by(path, token="fresh")  # another process is faster
        return verdict

    monkeypatch.setattr(claims, "_is_dead", slow)
    assert claim(path) is None
    assert json.loads(path.read_text())["token"] == "fresh"
    assert [each.name for each in tmp_path.iterdir()] == ["run.claim"]


def test_waiting_for_a_claim(tmp_path):
    path = tmp_path / "plan.claim"
    held = claim(path)
    threading.Timer(0.1, lambda: held.__exit__(None, None, None)).start()
    with wait_for(path, 0.01):
        assert held._stop.is_set()
