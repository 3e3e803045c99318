"""The planted faults fit the sources as they are, and the mutator makes mutants: nothing is planted or run here."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import run_faults
from .copied_tree import CHECKOUT, FaultsError, Tree, package_folders
from .fault import Fault
from .mutator import TESTS, Mutant, draw, mutants, suites_of
from .planted import FAULTS
from .run_faults import main
from .search import SURVIVED, Searched
from .tree_finder import TreeFinder

DRAWN = 40


def read(file: str) -> str:
    """A source as it is."""
    return (CHECKOUT / file).read_text(encoding="utf-8")


# ---- planted faults
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted(fault: Fault) -> None:
    text = read(fault.file)
    planted = fault.plant(text)  # fails by a sentence where the text is not there exactly once
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_names_tests_that_there_are(fault: Fault) -> None:
    assert [test for test in fault.tests if not (CHECKOUT / test).exists()] == []
    assert fault.breaks.endswith(".") and "\n" not in fault.breaks


def test_there_are_twenty_of_different_names_in_every_room() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 20
    rooms = ["mest_compiler/" + room for room in ("kernels", "passes", "sparsity", "runtime", "training")]
    rooms += ["schedules/cpu", "schedules/opencl"]
    assert {room for room in rooms for fault in FAULTS if fault.file.startswith(room + "/")} == set(rooms)


@pytest.mark.parametrize(("text", "count"), [("x = 1\n", 0), ("x = 2\ny = x = 2\n", 2)])
def test_a_fault_whose_text_moved_says_so(text: str, count: int) -> None:
    fault = Fault("moved", "a.py", "x = 2", "x = 3", "It is three.", ())
    with pytest.raises(FaultsError, match=f"'moved' cannot be planted, because its text is {count} times in a.py"):
        fault.plant(text)


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "nothing"]) == 2
    assert "There is no fault 'nothing'; there are nesterov-sign, " in capsys.readouterr().err


def test_an_unknown_revision_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--revision", "no-such-branch"]) == 2
    assert "git knows no revision 'no-such-branch'" in capsys.readouterr().err


def test_a_search_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched, lines = [], tmp_path / "found.jsonl"

    @contextmanager
    def tree(commit: str | None) -> Iterator[Tree]:
        assert commit == "a" * 40
        yield Tree(CHECKOUT, tmp_path, tmp_path)

    def search(tree: Tree, file: str, content: bytes, tests: Sequence[str], limit_s: float) -> Searched:
        assert content != (CHECKOUT / file).read_bytes()
        searched.append(file)
        return Searched(SURVIVED, "", 2.0, 3.0)

    monkeypatch.setattr(run_faults, "commit_of", lambda revision: "a" * 40)
    monkeypatch.setattr(run_faults, "copied_tree", tree)
    monkeypatch.setattr(run_faults, "search", search)
    command = ["--mutants", "3", "--seed", "1", "--revision", "main", "--json", str(lines)]
    assert main(command) == 0 and len(searched) == 3
    whole = lines.read_text()
    found = [json.loads(line) for line in whole.splitlines()]
    assert [(one["outcome"], one["cpu_seconds"]) for one in found] == [(SURVIVED, 3.0)] * 3
    lines.write_text(whole[:-5])  # killed while it wrote the last line
    assert main(command) == 0 and len(searched) == 4 and lines.read_text() == whole
    assert main([*command[:3], "2", *command[4:]]) == 0 and len(searched) == 7  # another seed


def test_every_package_has_its_folder() -> None:
    folders = package_folders(CHECKOUT)
    assert folders["mest_compiler"] == str(CHECKOUT / "mest_compiler")
    assert folders["mest_compiler.schedules"] == str(CHECKOUT / "schedules")


def test_a_package_is_found_in_its_tree_and_nothing_else_is(tmp_path: Path) -> None:
    for name in ("code", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "code" / "__init__.py").write_text("")
    finder = TreeFinder({"a.code": str(tmp_path / "code"), "a.data": str(tmp_path / "data")})
    code, data = finder.find_spec("a.code"), finder.find_spec("a.data")
    assert (code.origin, code.submodule_search_locations) == (str(tmp_path / "code/__init__.py"), [f"{tmp_path}/code"])
    assert (data.origin, data.submodule_search_locations) == (None, [f"{tmp_path}/data"])
    assert finder.find_spec("a") is finder.find_spec("a.code.inner") is None


def test_a_file_is_as_it_was_when_a_search_ends_badly(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("right")
    tree = Tree(tmp_path, tmp_path, tmp_path)
    with pytest.raises(KeyboardInterrupt), tree.changed("a.py", b"wrong"):
        assert (tmp_path / "a.py").read_text() == "wrong"
        raise KeyboardInterrupt
    assert (tmp_path / "a.py").read_text() == "right"


# ---- mutants
@pytest.fixture(scope="module")
def drawn() -> list[Mutant]:
    """Some mutants of the sources."""
    return draw(CHECKOUT, DRAWN, seed=0)


def test_a_seed_draws_the_same_mutants(drawn: list[Mutant]) -> None:
    assert draw(CHECKOUT, DRAWN, seed=0) == drawn
    assert draw(CHECKOUT, DRAWN, seed=1) != drawn
    assert len({(m.file, m.start, m.end, m.new) for m in drawn}) == DRAWN


def test_every_mutant_parses_and_differs(drawn: list[Mutant]) -> None:
    for mutant in drawn:
        source = (CHECKOUT / mutant.file).read_bytes()
        assert source[mutant.start : mutant.end].decode() == mutant.old
        assert ast.dump(ast.parse(mutant.apply(source))) != ast.dump(ast.parse(source)), mutant


def test_every_mutant_has_tests_that_there_are(drawn: list[Mutant]) -> None:
    assert [test for m in drawn for test in suites_of(m.file) if not (CHECKOUT / test).exists()] == []
    assert [folder for folder in TESTS if not any((CHECKOUT / folder).glob("*.py"))] == []


SOURCE = '''"""A docstring - with 1 < 2."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    LIMIT = 3 + 4


@decorated(7)
def f(a: "x + y", b: int = 5) -> list[8]:
    é(a,  # twice * "é"
      b)
    if not (a < b and b or a):
        raise ValueError(f"{a + b}: not {9}")
    c[0] = a ** b; c[1] += max(a, b.min())
    return "é" + a, [a] + b, (a) // (b)
'''
MUTANTS = [
    (10, "constant", "5", "4"),
    (10, "constant", "5", "6"),
    (11, "removed", 'é(a,  # twice * "é"\n      b)', "pass"),
    (11, "arguments", 'a,  # twice * "é"\n      b', 'b,  # twice * "é"\n      a'),
    (13, "not", "not (a < b and b or a)", "(a < b and b or a)"),
    (13, "boolean", "a < b and b", "a < b or b"),
    (13, "boolean", "a < b and b or a", "a < b and b and a"),
    (13, "comparison", "<", "<="),
    (15, "removed", "c[0] = a ** b", "pass"),
    (15, "constant", "0", "1"),
    (15, "removed", "c[1] += max(a, b.min())", "pass"),
    (15, "constant", "1", "0"),
    (15, "operator", "+=", "-="),
    (15, "min or max", "max", "min"),
    (15, "min or max", "min", "max"),
    (16, "operator", "//", "*"),
]
"""All of that source: line, kind, what stands there and what will."""


def test_what_is_changed_and_what_is_not() -> None:
    found = mutants("a.py", SOURCE.encode())
    assert [(m.line, m.kind, m.old, m.new) for m in found] == MUTANTS
    assert found[-1].shown == 'return "é" + a, [a] + b, (a) // (b) -> return "é" + a, [a] + b, (a) * (b)'
