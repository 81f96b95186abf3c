"""Runs several trainings at once on one machine, in worker processes that are restarted if they die."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import torch

from coterie.comparison.folder import ComparisonFolder, Job
from coterie.comparison.job import DEATHS, GO_ON, note_failure
from coterie.training.interruption import Interrupted, Interruption

POLL_SECONDS = 0.2


def cores() -> int:
    """Returns the number of cores that this process may use; in a container or under a batch system it is below that of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices() -> list[str]:
    """Returns the CUDA devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; empty without CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    if visible:
        return [each.strip() for each in visible.split(",") if each.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def environments(jobs: Sequence[Job], workers: int) -> list[dict[str, str]]:
    """Returns each worker's environment: its share of the cores, and one of the devices, assigned in turn.

    If a recipe names a device by its number, all workers see all devices.
    """
    threads = str(max(1, cores() // workers))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    # Custom methods must be importable as in this process, in the same order of paths.
    environment["PYTHONPATH"] = os.pathsep.join(place or os.getcwd() for place in sys.path)
    given = [] if any(":" in (job.recipe.training.device or "") for job in jobs) else devices()
    if not given:
        return [environment] * workers
    return [{**environment, "CUDA_VISIBLE_DEVICES": given[number % len(given)]} for number in range(workers)]


class Worker:
    """A process that does one job after another.

    Args:
        folder: the comparison's folder, with its plan written.
        environment: environment of the process.
    """

    def __init__(self, folder: ComparisonFolder, environment: dict[str, str]) -> None:
        read, write = os.pipe()
        # -P: do not put the working directory first in sys.path.
        command = [sys.executable, "-P", "-m", "coterie.comparison.worker", str(folder.path), str(write)]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True, pass_fds=[write])
        os.close(write)
        self._answers = os.fdopen(read)

    def do(self, number: int) -> bool:
        """Have the worker do the job of this number in the plan; returns False if the process is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
        except OSError:
            return False
        return bool(self._answers.readline())

    def end(self) -> int:
        """Close the worker's input and wait until it ends; returns its exit code, negative for a signal."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self._answers.close()
        return self.process.wait()


class Workers:
    """Trains jobs in worker processes.

    A process that dies (killed, out of memory) is replaced, and its job resumes from its checkpoint. A job fails after ``DEATHS`` processes have died
    on it.

    Args:
        folder: the comparison's folder, with its plan written.
        jobs: all jobs of the plan.
        workers: number of processes.
        when_done: called in the thread of :meth:`run` after each job.
    """

    def __init__(
        self, folder: ComparisonFolder, jobs: Sequence[Job], workers: int, when_done: Callable[[], object]
    ) -> None:
        self.folder, self.jobs, self.when_done = folder, jobs, when_done
        self.environments = environments(jobs, workers)
        self.workers: set[Worker] = set()
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._signals: list[int] = []
        self._lock, self._stopping = threading.Lock(), False

    def run(self) -> None:
        """Trains all jobs that are not done.

        Raises:
            Interrupted: this process or a worker received a signal; checkpoints of all runs in progress are written.
        """
        left = [number for number, job in enumerate(self.jobs) if not self.folder.is_done(job)]
        for number in left:
            self._waiting.put(number)
        feeders = [threading.Thread(target=self._feed, args=(each,), daemon=True) for each in self.environments]
        with Interruption() as interruption:
            for feeder in feeders:
                feeder.start()
            try:
                while interruption.signal is None and not self._signals and any(each.is_alive() for each in feeders):
                    self._collect()
                    time.sleep(POLL_SECONDS)
            finally:
                self._stop()
                for feeder in feeders:
                    feeder.join()
        self._collect()
        if interruption.signal is not None or self._signals:
            raise Interrupted(interruption.signal or self._signals[0], str(self.folder.path), GO_ON)

    def _collect(self) -> None:
        is_new = False
        with contextlib.suppress(queue.Empty):
            while True:
                self._done.get_nowait()
                is_new = True
        if is_new:
            self.when_done()

    def _stop(self) -> None:
        """Stops all workers; each finishes its step, writes a checkpoint and ends."""
        with self._lock:
            self._stopping = True
            for worker in self.workers:
                worker.process.terminate()

    def _feed(self, environment: dict[str, str]) -> None:
        """Sends jobs to a worker, and replaces it if it dies, until no job is left."""
        worker = None
        while not self._stopping:
            try:
                number = self._waiting.get_nowait()
            except queue.Empty:
                break
            deaths = 0
            while not self._stopping:
                worker = worker or self._start(environment)
                if worker is None:
                    break
                if worker.do(number):
                    self._done.put(number)
                    break
                code, worker = self._end(worker), None
                if (stop := _signal_of(code)) in (signal.SIGINT, signal.SIGTERM):
                    self._signals.append(stop)  # a signal to one worker stops all
                    return
                deaths += 1
                if deaths == DEATHS:
                    how = f"signal {-code}" if code < 0 else f"exit code {code}"
                    note_failure(self.folder, self.jobs[number], f"its process died {DEATHS} times ({how})")
                    self.folder.marker(self.jobs[number]).unlink(missing_ok=True)
                    self._done.put(number)
                    break
        if worker is not None:
            self._end(worker)

    def _start(self, environment: dict[str, str]) -> Worker | None:
        with self._lock:
            if self._stopping:
                return None
            worker = Worker(self.folder, environment)
            self.workers.add(worker)
        return worker

    def _end(self, worker: Worker) -> int:
        code = worker.end()
        with self._lock:
            self.workers.discard(worker)
        return code


def _signal_of(code: int) -> int:
    """Returns the signal of an exit code: negative as from the system, or above 128 as from a shell; 0 if there is none."""
    return -code if code < 0 else max(0, code - 128)
