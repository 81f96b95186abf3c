"""A comparison on a Ray cluster of two nodes on the loopback, in a network name space of its own: disturbed at random, nothing is lost or differs.

Ray takes 127.0.0.1 for every node there; nothing is sent to any other machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import coterie
from coterie.comparison import cluster
from coterie.comparison.arms import build_arms
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.plan import keep_plan, make_plan
from coterie.errors import CoterieError

SMALL = ["data=digits", "data.train_limit=60", "training.batch_size=32", "training.device=cpu", "network=tiny_cifar"]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": os.pathsep.join(sys.path),
}
LONG = [*SMALL, "training.epochs=150"]


def alone_in_the_network(command: list[str], **options) -> subprocess.CompletedProcess:
    """Run in a network name space that holds the loopback only.

    Skips where this is not allowed.
    """
    pytest.importorskip("ray")
    if (
        shutil.which("unshare") is None
        or shutil.which("ip") is None
        or subprocess.run(["unshare", "-n", "true"], check=False).returncode
    ):
        pytest.skip("no network name space can be made here")
    return subprocess.run(
        ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False, **options,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("runs/*/*/student.safetensors"))
    }


@pytest.mark.slow
def test_a_disturbed_comparison_is_the_undisturbed_one(tmp_path):
    """Worker processes, a node and the conductor are killed at random."""
    script = Path(__file__).parent / "disturbed_cluster.py"
    done = alone_in_the_network([sys.executable, str(script), str(tmp_path / "disturbed"), *LONG])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["workers"] >= 2
    assert told["nodes"] == told["conductors"] == 1
    coterie.compare(methods=["baseline", "dml"], seeds=2, output=tmp_path / "alone", overrides=LONG)
    expected = weights(tmp_path / "alone")
    assert len(expected) == 4
    assert weights(tmp_path / "disturbed") == expected
    for path in (tmp_path / "disturbed").glob("runs/*/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["epoch"] for row in rows if row["split"] == "validation"] == list(range(150))


@pytest.mark.slow
def test_a_cluster_of_this_machine_alone(tmp_path):
    settings = [*SMALL, "training.epochs=1"]
    command = [
        sys.executable,
        "-m",
        "coterie",
        "compare",
        *settings,
        "--methods",
        "baseline",
        "--seeds",
        "2",
        "-o",
        str(tmp_path / "c"),
    ]
    too_much = alone_in_the_network([*command, "--cluster", "local", "--gpus-per-run", "2"])
    assert too_much.returncode == 2
    assert "a run asks for 1 CPUs and 2 GPUs, and no node of the cluster has them" in too_much.stderr
    assert "Traceback" not in too_much.stderr
    done = alone_in_the_network([*command, "--cluster", "local"])
    assert done.returncode == 0, done.stderr
    assert "run 2 of 2: baseline, seed 1: test top-1" in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "127.0.0.1:99999999", "ray://127.0.0.1:9"])
def test_an_address_that_does_not_answer_is_named_before_anything_is_written(address, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(CoterieError, match=f"--cluster {address}: no Ray cluster answers there"):
        coterie.compare(methods=["baseline"], seeds=1, output=tmp_path / "c", overrides=SMALL, cluster=address)
    assert not (tmp_path / "c").exists()


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    folder = ComparisonFolder(tmp_path / "c")
    plan = keep_plan(folder, make_plan(build_arms([], ["baseline"], SMALL), 1))
    with pytest.raises(CoterieError, match=r'--cluster needs Ray: pip install "coterie\[cluster\]"'):
        cluster.train_on_cluster(folder, plan.jobs(), "local", lambda: None)


class Nodes:
    """A cluster of which only the resources are asked."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self.resources = resources

    def nodes(self):
        return [{"Alive": True, "Resources": each} for each in self.resources]

    def cluster_resources(self):
        return {"GPU": sum(each.get("GPU", 0) for each in self.resources)}


def test_what_no_single_node_has_is_refused():
    found = Nodes({"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0})
    cluster._require_resources(found, 4, 0)
    cluster._require_resources(found, 1, 0.25)
    with pytest.raises(
        CoterieError, match=r"4 CPUs and 1 GPUs, and no node of the cluster has them \(the largest has 2 and 1\)"
    ):
        cluster._require_resources(found, 4, 1)  # each is there, on different nodes


@pytest.mark.parametrize(
    ("device", "cards", "expected"), [("cpu", 1, 0.0), ("cuda", 1, 1.0), (None, 1, 1.0), (None, 0, 0.0)]
)
def test_a_run_takes_a_gpu_where_it_may_and_there_is_one(device, cards, expected, tmp_path):
    plan = make_plan(
        build_arms(
            [], ["baseline"], [*SMALL, *([f"training.device={device}"] if device else ["training.device=null"])]
        ),
        1,
    )
    assert cluster._gpus(Nodes({"GPU": float(cards)}), plan.jobs()) == expected
