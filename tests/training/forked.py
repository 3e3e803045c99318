"""Real processes that train together, forked from one that has imported PyTorch: seconds less each than new ones.

What torchrun itself starts, and how such processes end for good, `test_processes` sees in the runs that it trains.
"""

import json
import os
import socket
import sys
from multiprocessing import get_context
from pathlib import Path

from . import one_process

LIMIT_S = 120
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_CONTEXT = get_context("forkserver")
# What is imported before the fork starts no thread. DistributedDataParallel's constructor imports torch._dynamo.
_CONTEXT.set_forkserver_preload(
    ["mest_compiler.training.loop", "mest_compiler.training.process_group", "torch._dynamo"]
)


def launched(task: str, folder: Path, processes: int = 2, **spec) -> list[tuple[int, str]]:
    """(exit code, standard error) of each process of a task of `one_process`, with the variables of torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    said = [folder / f"said by {rank}.txt" for rank in range(processes)]
    group = []
    try:
        for rank in range(processes):
            values = (str(rank), str(processes), str(rank), "localhost", port)
            arguments = (dict(zip(VARIABLES, values, strict=True)), said[rank], task, str(folder), json.dumps(spec))
            group.append(_CONTEXT.Process(target=_begin, args=arguments))
            group[-1].start()
        for process in group:
            process.join(LIMIT_S)
        assert all(process.exitcode is not None for process in group), "a process goes on and on"
    finally:
        for process in group:
            process.kill()
            process.join()
    return [(process.exitcode, path.read_text()) for process, path in zip(group, said, strict=True)]


def _begin(variables: dict[str, str], said: Path, *arguments: str) -> None:
    """What a process of the group does."""
    import torch

    file = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 (to the process's end)
    os.environ.update(variables)
    torch.set_num_threads(1)
    sys.exit(one_process.main(*arguments))
