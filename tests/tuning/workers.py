"""Worker processes that the tests of a file share: each takes seconds to start, since it imports TVM and PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
from tvm.support.popen_pool import PopenPoolExecutor


class Kept(PopenPoolExecutor):
    """A pool whose processes outlive the one who asked for it; a process that crashed is started anew, as ever."""

    def shutdown(self, wait: bool = True) -> None:
        """The next one goes on with it."""

    def end(self) -> None:
        """Ends its processes."""
        super().shutdown()


@contextmanager
def shared_workers(module: ModuleType) -> Iterator[None]:
    """From now on this module's pools are one of one process: what builds, measures too."""
    pools: list[Kept] = []

    def pool(count: int, timeout: float, maximum_process_uses: int | None = None, **options: object) -> Kept:
        if not pools:
            pools.append(Kept(1, timeout, **options))
        return pools[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PopenPoolExecutor", pool)
        patch.setattr(module, "available_cores", lambda: 1)
        try:
            yield
        finally:
            for one in pools:
                one.end()
