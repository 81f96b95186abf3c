"""``python disturbed_cluster.py FOLDER SETTING...``: a comparison on two nodes, of whose processes some are killed; tells at its end how many."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster


def trainings() -> list[int]:
    """Processes in which Ray trains a run at this moment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::") and b"seed" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def main() -> None:
    folder, settings = sys.argv[1], sys.argv[2:]
    chance = random.Random(0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=2)
    command = [
        sys.executable,
        "-m",
        "coterie",
        "compare",
        *settings,
        "--methods",
        "baseline,dml",
        "--seeds",
        "2",
        "-o",
        folder,
        "--cluster",
        cluster.address,
    ]
    killed = {"workers": 0, "nodes": 0, "conductors": 0, "calls": 0}
    plan = ["worker", "node", "worker", "conductor", "worker"]
    code = -1
    while code != 0 and killed["calls"] < 8:
        killed["calls"] += 1
        conductor = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        while conductor.poll() is None:
            time.sleep(chance.uniform(1.0, 3.0))
            if not plan or not trainings():
                continue
            what = plan.pop(0)
            if what == "worker":
                os.kill(chance.choice(trainings() or [0]), signal.SIGKILL)
                killed["workers"] += 1
            elif what == "node":
                cluster.remove_node(other, allow_graceful=False)
                other = cluster.add_node(num_cpus=2)
                killed["nodes"] += 1
            else:
                conductor.kill()
                killed["conductors"] += 1
        code = conductor.wait()
    cluster.shutdown()
    print(json.dumps(killed), flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
