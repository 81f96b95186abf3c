"""A worker process: ``python -m coterie.comparison.worker FOLDER DESCRIPTOR`` trains what its parent tells it, one job after the other.

A line on its standard input names a job by its number in the plan; an empty line on DESCRIPTOR says that it is done. When the input ends the parent
is gone, or has nothing left to do: a training in progress is put away as by a signal, and the process ends.
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
    # The main thread may be in a step: it finishes it, writes a checkpoint and ends, as for the signal itself.
    _thread.interrupt_main(signal.SIGTERM)


def run() -> int:
    """Exit code of the process."""
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
