"""How much memory this process has needed."""

import sys
from pathlib import Path


def peak_rss_mb() -> float:
    """Peak resident memory of this process, MiB."""
    # not ru_maxrss where it can be helped: Linux hands a parent's peak down to its children
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except FileNotFoundError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
