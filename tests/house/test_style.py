"""Rules of the house that ruff has no check for."""

import ast
from pathlib import Path

FOLDERS = ("mest_compiler", "schedules", "models", "tests")
LONGEST = 400
REPOSITORY = Path(__file__).parents[2]
MODULES = {
    str(path.relative_to(REPOSITORY)): path
    for folder in FOLDERS
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}


def test_a_file_is_one_thing() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert len(lines) > 300
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}, "split it: one file, one thing"


def test_a_module_says_at_its_top_why_it_exists() -> None:
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
    assert [name for name, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {Path(name).parent for name in MODULES if not name.startswith("tests/")}
    assert [str(folder) for folder in sorted(folders) if not (REPOSITORY / folder / "__init__.py").exists()] == []
