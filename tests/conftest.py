"""What holds for every test: no user's cache of measured kernels, no tuning logs, no waiting for cores that other work
slows, no threads that spin while they wait, and a Ctrl-C that arrives."""

import gc
import os
import signal

import pytest

os.environ["MEST_CACHE"] = ""  # nothing is kept; before anything is imported, so that child processes have it too
os.environ["MEST_TUNING_LOGS"] = ""  # and what is tuned here does not decide which kernels are tested
os.environ["MEST_WAIT_FOR_CALM"] = "0"
# PyTorch's and TVM's threads spin between two small calls, on cores that other workers' tests want.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported and collected stays to the end: the garbage collector need not walk over it for every test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # tracing and lowering make many short-lived nodes; 700 are few
