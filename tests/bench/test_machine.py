"""What is said about the machine can be written as JSON and is about this one."""

import json
import os
import platform
from datetime import datetime

import torch

from mest_compiler.bench.machine import available_cores, describe


def test_describe() -> None:
    machine = json.loads(json.dumps(describe()))
    assert machine["cores"] == available_cores() <= (os.cpu_count() or 1)
    assert machine["python"] == platform.python_version()
    assert machine["torch"] == torch.__version__
    assert machine["tvm"].startswith("0.27")
    assert machine["instruction_set"] in {"avx512", "avx2", "neon", "unknown"}
    assert machine["cpu"]
    assert datetime.fromisoformat(machine["date"]).utcoffset() is not None
