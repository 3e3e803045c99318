"""The process of a supervised tracker or server: `python -m mest_compiler.runtime.remote.serving '{"role": ...}'`.

It ends, with all that it started, when its standard input does: that is a pipe from the supervisor, which closes
however the supervisor ends.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import select
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Sequence

from tvm.rpc import server
from tvm.support import utils

END_S = 3.0
"""Seconds that a session may go on computing after its client has left."""
_PR_SET_PDEATHSIG = 1
_fork = multiprocessing.get_context("fork")


def main() -> None:
    """Serves until the supervisor is gone, or something breaks."""
    order = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_supervisor, args=(order.pop("folder"),), daemon=True).start()
    _SERVE[order.pop("role")](**order)
    os._exit(1)  # what should run for ever has ended


def _end_with_supervisor(folder: str) -> None:
    """`folder`: the supervisor's, which it can no more remove itself."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)


def _serve_tracker(host: str, port: int) -> None:
    from tvm.rpc.tracker import PopenTrackerServerState

    PopenTrackerServerState(host, port, port + 1, silent=True).thread.join()


def _serve_device(host: str, port: int, key: str, tracker: tuple[str, int], libraries: Sequence[str]) -> None:
    server._serving = _serve_client
    server.PopenRPCServerState(
        host, port, port + 1, tracker_addr=tuple(tracker), key=key, load_library=":".join(libraries), silent=True,
        custom_addr=None,
    ).thread.join()  # fmt: skip


def _serve_client(sock: socket.socket, client: tuple[str, int], options: dict[str, float], libraries: str) -> None:
    """As TVM's, which stops listening for ever after a session that ended badly, and waits for one whose client has
    left until its kernel is through."""
    folder = utils.tempdir()
    session = _fork.Process(target=_run_session, args=(sock, libraries, folder))
    session.start()
    try:
        if not _ended_or_left(session, sock, options.get("timeout")):
            _log(f"the session of {client[0]}:{client[1]} took longer than its client allowed")
        session.join(END_S)
        if session.is_alive():
            _log(f"the session of {client[0]}:{client[1]} went on without its client and is stopped")
            session.kill()
            session.join()
        elif session.exitcode:
            how = signal.Signals(-session.exitcode).name if session.exitcode < 0 else f"status {session.exitcode}"
            _log(f"the session of {client[0]}:{client[1]} ended by {how}")
    finally:
        sock.close()
        folder.remove()


def _ended_or_left(session: multiprocessing.Process, sock: socket.socket, limit: float | None) -> bool:
    """Waits until the session has ended or its client has left; False after `limit` seconds."""
    left = select.poll()
    left.register(sock, getattr(select, "POLLRDHUP", 0))
    left.register(session.sentinel, select.POLLIN)
    return bool(left.poll(None if limit is None else limit * 1000))


def _run_session(sock: socket.socket, libraries: str, folder: utils.TempDirectory) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # the server ended before it was watched
            os._exit(1)
    os.chdir(folder.path)
    try:
        server._serve_loop(sock, libraries, folder)
    except Exception as error:
        _log(str(error).strip().splitlines()[-1])
        os._exit(1)


def _log(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


_SERVE = {"tracker": _serve_tracker, "server": _serve_device}

if __name__ == "__main__":
    main()
