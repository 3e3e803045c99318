"""What a user installs: everything of the package, under one name, from a built wheel."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

IMPORT = """
import mest_compiler.cli.main, mest_compiler.models, mest_compiler.schedules
for module in (mest_compiler, mest_compiler.models, mest_compiler.schedules, mest_compiler.cli.main):
    print(module.__file__)
"""


@pytest.fixture
def wheel(copy: Path, tmp_path: Path) -> Path:
    """A wheel built from a copy, so that nothing left by an earlier build slips in."""
    _run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, copy)
    (built,) = tmp_path.glob("*.whl")
    return built


def test_wheel(wheel: Path, repository: Path, tmp_path: Path) -> None:
    names = ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    info = next(top for top in tops if top.endswith(".dist-info"))
    assert tops == {"mest_compiler", info}
    assert f"{info}/licenses/LICENSE" in names
    assert "mest = mest_compiler.cli.main:main" in ZipFile(wheel).read(f"{info}/entry_points.txt").decode()
    assert {name for name in names if name.endswith(".py")} == _modules(repository)
    assert {name for name in names if "/tuning_logs/" in name} == _logs(repository)

    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    _run("-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel)
    insert = f"import sys; sys.path.insert(0, {str(target)!r})"
    said = _run("-c", insert + IMPORT, cwd=elsewhere)
    assert [Path(line).is_relative_to(target) for line in said.split()] == [True] * 4


def _modules(repository: Path) -> set[str]:
    """Path in the wheel of every module of the repository."""
    folders = {
        "mest_compiler": repository / "mest_compiler",
        "mest_compiler/schedules": repository / "schedules",
        "mest_compiler/models": repository / "models",
    }
    return {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in folders.items()
        for path in folder.rglob("*.py")
    }


def _logs(repository: Path) -> set[str]:
    """Path in the wheel of every tuning log, where look-ups find it."""
    folder = repository / "tuning_logs"
    found = (path for path in folder.rglob("*") if path.suffix in (".json", ".md"))
    return {f"mest_compiler/tuning_logs/{path.relative_to(folder).as_posix()}" for path in found}


def _run(*arguments: object, cwd: Path | None = None) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
