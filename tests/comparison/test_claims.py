from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from coterie.comparison.claims import Claim, claim

HOLDER = """
import sys, time
from coterie.comparison.claims import claim
held = claim(__import__("pathlib").Path(sys.argv[1]))
print(held is not None, flush=True)
time.sleep(60)
"""


def test_one_claim_at_a_time(tmp_path):
    path = tmp_path / "run.claim"
    with claim(path) as held:
        assert held is not None
        assert claim(path) is None
    assert not path.exists()
    with claim(path) as again:
        assert again is not None


def test_of_many_who_try_at_once_one_wins(tmp_path):
    path = tmp_path / "run.claim"
    with ThreadPoolExecutor(16) as pool:
        held = [each for each in pool.map(lambda _: claim(path), range(64)) if each is not None]
    assert len(held) == 1
    held[0].__exit__(None, None, None)


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
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x"}))
    assert claim(path) is None
    old = time.time() - 1000
    os.utime(path, (old, old))
    with claim(path) as held:
        assert held is not None


def test_the_owner_touches_its_claim(tmp_path):
    path = tmp_path / "run.claim"
    path.write_text("{}")
    old = time.time() - 1000
    os.utime(path, (old, old))
    with Claim(path, heartbeat=0.02):
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < old + 500 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > old + 500
