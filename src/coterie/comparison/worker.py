"""A worker process: ``python -m coterie.comparison.worker FOLDER DESCRIPTOR`` trains the jobs that its parent sends, one after another.

Each line on standard input is the number of a job in the plan. The worker writes an empty line to DESCRIPTOR when the job is done. End of input means that
the parent is gone or has no more jobs: as on a signal, a training in progress writes a checkpoint, and the process ends.
"""

from __future__ import annotations

import _thread
import os
import queue
import signal
import sys
import threading

from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.job import train_job
from coterie.comparison.plan import read_plan
from coterie.errors import CoterieError, RunError
from coterie.terminal import error_message
from coterie.training.interruption import Interrupted


def main() -> None:
    folder, done = ComparisonFolder(sys.argv[1]), os.fdopen(int(sys.argv[2]), "w", buffering=1)
    jobs = read_plan(folder).jobs()
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    while number := told.get():
        train_job(folder, jobs[int(number)])
        done.write("\n")


def _listen(told: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        told.put(line.strip())
    told.put("")
    # The main thread may be in a step: it finishes the step, writes a checkpoint and ends, as on a real signal.
    _thread.interrupt_main(signal.SIGTERM)


def run() -> int:
    """Runs the worker; returns the exit code of the process."""
    try:
        main()
    except Interrupted as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (CoterieError, RunError) as error:
        print(error_message(f"coterie: {error}"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
