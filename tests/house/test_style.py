"""Rules of the house that ruff has no check for."""

import ast
from pathlib import Path

import pytest

FOLDERS = ("mest_compiler", "schedules", "models", "tests")
LONGEST = 400
REPOSITORY = Path(__file__).parents[2]
MODULES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_module(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST, "split it: one file, one thing"
    assert ast.get_docstring(ast.parse(text)), "say at its top why the file exists"


def test_every_folder_of_modules_is_a_package() -> None:
    installed = {path.parent for path in MODULES if "tests" not in path.relative_to(REPOSITORY).parts}
    assert [str(folder) for folder in sorted(installed) if not (folder / "__init__.py").exists()] == []
