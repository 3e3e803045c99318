"""Small contestants for the tests of the harness; each runs in a worker process."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np


class Summer:
    """Sums integers, prints where it must not disturb, and remembers when it ran and with what."""

    def __init__(self, count: int = 1000, pause: float = 0.0) -> None:
        self.count, self.pause = count, pause
        self.intervals: list[tuple[float, float]] = []
        self.runs_before_outputs = -1

    def run(self) -> None:
        start = time.monotonic()
        print("a contestant's own words")
        os.write(1, b"and those of its C code\n")
        time.sleep(self.pause)
        sum(range(self.count))
        self.intervals.append((start, time.monotonic()))

    def outputs(self, path: Path) -> None:
        self.runs_before_outputs = len(self.intervals)
        np.savez(path, total=np.asarray(sum(range(self.count))))

    def result(self) -> dict[str, object]:
        return {
            "intervals": self.intervals,
            "runs_before_outputs": self.runs_before_outputs,
            "threads": os.environ["OMP_NUM_THREADS"] + os.environ["TVM_NUM_THREADS"],
            "cores": sorted(os.sched_getaffinity(0)),
            "pid": os.getpid(),
        }


class Bare:
    """Only what a contestant must have."""

    def run(self) -> None:
        time.sleep(0.01)


class Hungry(Bare):
    """Takes memory."""

    def __init__(self, mebibytes: int) -> None:
        self.memory = np.ones(mebibytes << 20, dtype=np.uint8)


class Raises(Bare):
    """Fails when it is built or when it runs."""

    def __init__(self, when: str) -> None:
        self.when = when
        if when == "build":
            raise ValueError("no such kernel")

    def run(self) -> None:
        raise RuntimeError("out of registers")


class Dies(Bare):
    """Ends its process without a word from Python."""

    def __init__(self, how: str) -> None:
        self.how = how

    def run(self) -> None:
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stderr.write("the driver gave up\n\n")
        sys.stderr.flush()
        os._exit(3)


class Slow(Bare):
    """Takes its time to be built or to run, and says where its process is."""

    def __init__(self, build: float = 0.0, run: float = 0.0, pid_file: str | None = None) -> None:
        self.seconds = run
        if pid_file is not None:
            Path(pid_file).write_text(str(os.getpid()))
        time.sleep(build)

    def run(self) -> None:
        time.sleep(self.seconds)
