"""What holds for every test: no user's cache of measured kernels, no tuning logs, no waiting for cores that other work
slows, no threads that spin while they wait, and a Ctrl-C that arrives."""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["MEST_CACHE"] = ""  # nothing is kept; before anything is imported, so that child processes have it too
os.environ["MEST_TUNING_LOGS"] = ""  # and what is tuned here does not decide which kernels are tested
os.environ["MEST_WAIT_FOR_CALM"] = "0"
# PyTorch's and TVM's threads spin between two small calls, on cores that other workers' tests want.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


ANEW = "--anew"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make test-all` keeps nothing from one test to another."""
    parser.addoption(ANEW, action="store_true", help="compile every step and measure every kernel anew in each test")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """See `scheduling`."""
    from .scheduling import SharedSteps

    return SharedSteps(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported and collected stays to the end: the garbage collector need not walk over it for every test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # tracing and lowering make many short-lived nodes; 700 are few


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of this run of the tests; its workers share it."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "kept"


@pytest.fixture(scope="session")
def keeping(kept: Path, pytestconfig: pytest.Config) -> Callable[[pytest.MonkeyPatch], None]:
    """Call it with a patch under which kernels are measured, and a step is compiled, by the first test that needs it;
    not with --anew."""

    def keep(patch: pytest.MonkeyPatch) -> None:
        if not pytestconfig.getoption(ANEW):
            from .kept_libraries import keep_libraries

            patch.setenv("MEST_CACHE", str(kept))
            keep_libraries(kept / "libraries", patch)

    return keep


@pytest.fixture
def compiled_once(keeping: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for one test."""
    keeping(monkeypatch)
