"""Whoever writes a file does it through `mest_compiler.files`, but for scratch files in temporary folders."""

import ast
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
WRITERS = {
    "write_text", "write_bytes", "save_file", "savefig", "savez", "savez_compressed", "mkstemp", "NamedTemporaryFile",
    "copyfile", "copytree", "symlink_to", "rename", "touch",
}  # fmt: skip
"""Methods and functions of modules, by their last name."""
OF_MODULES = {("os", "replace"), ("os", "open"), ("torch", "save"), ("json", "dump"), ("shutil", "move")}
"""Those whose names say too little without their module's."""
SCRATCH = Counter(
    {
        ("mest_compiler/bench/compiled_layer.py", "savez"): 1,
        ("mest_compiler/bench/compiled_network.py", "savez"): 1,
        ("mest_compiler/bench/torch_layer.py", "savez"): 1,
        ("mest_compiler/bench/torch_network.py", "savez"): 1,
        ("mest_compiler/runtime/remote/supervisor.py", "open"): 1,
        ("mest_compiler/runtime/hosts.py", "write_bytes"): 1,
        ("mest_compiler/runtime/session.py", "write_bytes"): 1,
        ("mest_compiler/tuning/measure.py", "write_bytes"): 1,
    }
)
"""Who writes what no user asked for, and how often: results and libraries for other processes, a server's log."""


def writes(path: Path) -> list[str]:
    """Names of the calls in a module that write or rename files."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        module = (
            function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        )
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name == "open" and module != "os":
            place = 0 if isinstance(function, ast.Attribute) else 1
            modes = [*node.args[place : place + 1], *(k.value for k in node.keywords if k.arg == "mode")]
            if any(isinstance(m, ast.Constant) and set(str(m.value)) & set("wax+") for m in modes):
                found.append(name)
        elif isinstance(function, ast.Attribute) and (name in WRITERS or (module, name) in OF_MODULES):
            found.append(name)
    return found


@pytest.fixture(scope="module")
def found() -> Counter:
    paths = (p for folder in ("mest_compiler", "schedules", "models") for p in (REPOSITORY / folder).rglob("*.py"))
    return Counter((str(p.relative_to(REPOSITORY)), name) for p in paths for name in writes(p))


def test_everything_else_is_written_by_the_one_writer(found: Counter) -> None:
    assert {key: count for key, count in found.items() if key[0] != "mest_compiler/files.py"} == SCRATCH


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')", "path.open('ab')", "path.open(mode='x')", "path.write_text('')", "os.replace(a, b)",
        "canvas.savefig(path)", "np.savez(path)", "torch.save(a, path)", "json.dump(a, file)",
    ],
)  # fmt: skip
def test_what_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.py").write_text(line)
    assert len(writes(tmp_path / "a.py")) == 1


@pytest.mark.parametrize("line", ["open(path)", "path.open('rb')", "text.replace('a', 'b')", "write_text(path, '')"])
def test_what_is_not(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.py").write_text(line)
    assert writes(tmp_path / "a.py") == []
