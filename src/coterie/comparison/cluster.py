"""Runs a comparison on a Ray cluster: each run is a Ray task with its CPUs and GPUs, which Ray restarts if a worker or a node dies.

Runs and plan are in the comparison's folder, which all nodes must share: a restarted run resumes from its checkpoint there.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coterie.comparison.folder import ComparisonFolder, Job
from coterie.comparison.job import DEATHS, GO_ON, note_failure, train_job
from coterie.comparison.plan import read_plan
from coterie.errors import CoterieError
from coterie.training.interruption import Interrupted, Interruption

POLL_SECONDS = 0.5
PUT_AWAY_SECONDS = 120.0  # time for runs to finish their step and write a checkpoint when the comparison is stopped
ANSWER_SECONDS = 5.0
LOCAL, AUTO = "local", "auto"


def train_on_cluster(
    folder: ComparisonFolder,
    jobs: Sequence[Job],
    address: str,
    when_done: Callable[[], object],
    *,
    cpus: float = 1.0,
    gpus: float | None = None,
) -> None:
    """Trains all jobs that are not done.

    Args:
        folder: the comparison's folder, with its plan written.
        jobs: all jobs of the plan.
        address: address of the cluster's head, ``auto`` for the cluster of this machine, ``local`` for this machine alone.
        when_done: called after each job.
        cpus: CPUs of one run.
        gpus: GPUs of one run, 0.25 for four runs on one; None: one if the cluster has any and a run may use it.

    Raises:
        CoterieError: Ray is not installed, no cluster answers, no node has the resources of a run, or a node does not see the folder.
        Interrupted: a signal was received; checkpoints of all runs in progress are written.
    """
    ray = require_cluster(address)
    left = {number: job for number, job in enumerate(jobs) if not folder.is_done(job)}
    if not left:
        return
    _connect(ray, address)
    try:
        gpus = _gpus(ray, left.values()) if gpus is None else gpus
        _require_resources(ray, cpus, gpus)
        _require_shared(ray, folder)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=DEATHS - 1)(_train)
        tasks = {task.options(name=f"{job.label} seed {job.seed}").remote(str(_path(folder)), number): job for number, job in left.items()}  # fmt: skip
        with Interruption() as interruption:
            while tasks and interruption.signal is None:
                ended, _ = ray.wait(list(tasks), timeout=POLL_SECONDS)
                for each in ended:
                    _conclude(ray, folder, tasks.pop(each), each)
                if ended:
                    when_done()
            for each in tasks:  # running tasks get a signal, waiting ones are not started
                ray.cancel(each)
            if tasks:
                ray.wait(list(tasks), num_returns=len(tasks), timeout=PUT_AWAY_SECONDS)
        if interruption.signal is not None:
            raise Interrupted(interruption.signal, str(folder.path), GO_ON)
    finally:
        ray.shutdown()


def require_cluster(address: str) -> Any:
    """Returns the ray module if it is installed and the address answers; starts nothing.

    Raises:
        CoterieError: Ray is not installed, or the address does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    try:
        import ray
    except ImportError:
        raise CoterieError('--cluster needs Ray: pip install "coterie[cluster]"') from None
    if address not in (LOCAL, AUTO):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            if not (host and port.isdecimal()):
                raise OSError("that is no address")
            socket.create_connection(
                (host.strip("[]"), int(port)), ANSWER_SECONDS
            ).close()  # Ray itself would retry for minutes
        except (OSError, OverflowError) as error:
            raise _no_answer(address, error) from None
    return ray


def _no_answer(address: str, error: Exception) -> CoterieError:
    reason = " ".join(str(error).split())[:200]
    return CoterieError(
        f"--cluster {address}: no Ray cluster answers there ({reason}); expected local, auto or an address such as 10.0.0.1:6379"
    )


def _connect(ray: Any, address: str) -> None:
    path = [place or os.getcwd() for place in sys.path]  # custom methods must be importable as in this process
    common = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(path)}},
    }
    try:
        if address == LOCAL:  # listens on the loopback interface only
            ray.init(address=LOCAL, include_dashboard=False, _node_ip_address="127.0.0.1", **common)
        else:
            ray.init(address=address, **common)
    except Exception as error:  # ConnectionError, ValueError for an address, and errors of Ray's processes that end
        raise _no_answer(address, error) from None


def _gpus(ray: Any, jobs: Any) -> float:
    wanted = any((job.recipe.training.device or "cuda").startswith("cuda") for job in jobs)
    return 1.0 if wanted and ray.cluster_resources().get("GPU", 0) else 0.0


def _require_resources(ray: Any, cpus: float, gpus: float) -> None:
    """Checks that some node has the resources of a run; otherwise Ray would wait for ever.

    Raises:
        CoterieError: a run needs more than any node has.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        largest: dict[str, float] = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
        raise CoterieError(
            f"a run asks for {cpus:g} CPUs and {gpus:g} GPUs, and no node of the cluster has them (the largest has {largest.get('CPU', 0):g} and "
            f"{largest.get('GPU', 0):g}); set --cpus-per-run and --gpus-per-run"
        )


def _require_shared(ray: Any, folder: ComparisonFolder) -> None:
    """Checks that every node sees the plan that this process has written.

    Raises:
        CoterieError: a node does not see it.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(_digest)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0)]
    seen = ray.get([look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(str(_path(folder))) for node in nodes])  # fmt: skip
    blind = [node["NodeManagerAddress"] for node, found in zip(nodes, seen, strict=True) if found != _digest(str(_path(folder)))]  # fmt: skip
    if blind:
        raise CoterieError(
            f"{len(blind)} of {len(nodes)} nodes do not see {str(_path(folder))!r} ({', '.join(blind[:3])}): --output must be a folder that all nodes share"
        )


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(ComparisonFolder(path).plan.read_bytes()).hexdigest()
    except OSError:
        return ""


def _train(path: str, number: int) -> None:
    """Trains a job on a node, in a Ray process."""
    folder = ComparisonFolder(path)
    try:
        train_job(folder, read_plan(folder).jobs()[number])
    except Interrupted:  # its checkpoint is written, and the driver asked for it
        return


def _conclude(ray: Any, folder: ComparisonFolder, job: Job, task: Any) -> None:
    try:
        ray.get(task)
    except (ray.exceptions.RayError, CoterieError) as error:
        if isinstance(error, (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)):
            reason = f"its process died {DEATHS} times"
        else:
            reason = " ".join(str(error).split())
        note_failure(folder, job, reason)
        folder.marker(job).unlink(missing_ok=True)


def _path(folder: ComparisonFolder) -> Path:
    return folder.path.resolve()
