"""Draws mutants of the sources: one small change each, at a place of a syntax tree, the rest of the file as it is.

Planted faults are those that somebody thought of; mutants are the others. Places in docstrings, type hints, decorators,
error messages and `if TYPE_CHECKING` are left alone, where a change means nothing to a test.
"""

from __future__ import annotations

import ast
import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

TESTS = {
    "mest_compiler/kernels": ("tests/kernels", "tests/schedules", "tests/whole_step"),
    "mest_compiler/passes": ("tests/passes", "tests/whole_step"),
    "mest_compiler/sparsity": ("tests/sparsity", "tests/whole_step"),
    "mest_compiler/optimizers": (
        "tests/schedules/test_update.py", "tests/whole_step/test_optimizers.py", "tests/schedules", "tests/whole_step",
    ),
    "mest_compiler/losses": (
        "tests/whole_step/test_losses.py", "tests/training", "tests/frontend", "tests/whole_step",
    ),
    "schedules/opencl": ("tests/schedules", "tests/whole_step"),
    "schedules/cpu": ("tests/schedules", "tests/whole_step"),
    "schedules": ("tests/schedules", "tests/whole_step"),
}  # fmt: skip
"""Folders that are mutated, and the tests that should find it: their own and those of whole steps. The first counts."""

OPERATORS = {"+": "-", "-": "+", "*": "//", "//": "*", "+=": "-=", "-=": "+=", "*=": "//=", "//=": "*="}
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
BOOLEAN = {"and": "or", "or": "and"}
EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
TYPES = ("isinstance", "issubclass", "cast")
"""Calls whose second argument is a type (or the first): swapped they would only crash."""
HINTS = ("annotation", "returns", "decorator_list")
"""Fields of nodes that say something about them and compute nothing."""
NEVER_NUMBERS = (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.ListComp)
"""What `+` joins: another operator would only crash."""
_BETWEEN = re.compile(rb"#[^\n]*|\w+|[^\s\w()\\#]+")
"""What may stand between two operands beside parentheses: comments, words, and whole operators (`**` is not `*`)."""


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        file: from the repository's folder. line: from 1. kind: of the change. start, end: of the bytes that change.
        old, new: what stands there, and what will. before, behind: what stands beside it in its lines.
    """

    file: str
    line: int
    kind: str
    start: int
    end: int
    old: str
    new: str
    before: str
    behind: str

    def apply(self, source: bytes) -> bytes:
        """The file's bytes with the change."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    @property
    def shown(self) -> str:
        """The change in a line: old -> new."""
        return " -> ".join(" ".join(f"{self.before}{text}{self.behind}".split()) for text in (self.old, self.new))


def suites_of(file: str) -> tuple[str, ...]:
    """The tests that should find a mutant of a file."""
    return next(tests for folder, tests in TESTS.items() if file.startswith(folder + "/"))


def draw(root: Path, count: int, seed: int) -> list[Mutant]:
    """So many mutants of a tree's sources (or all there are), in the order in which they are drawn: the same ones for
    the same sources and seed."""
    folders = {folder for folder in TESTS if "schedules/" not in folder}
    files = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    every = [m for path in files for m in mutants(str(path.relative_to(root)), path.read_bytes())]
    return random.Random(seed).sample(every, min(count, len(every)))


@cache
def mutants(file: str, source: bytes) -> tuple[Mutant, ...]:
    """All mutants of a file, by place."""
    found = {(m.start, m.end, m.new): m for m in _Sites(file, source).all()}
    return tuple(found[key] for key in sorted(found))


class _Sites:
    """The places of one file."""

    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source = file, source
        self._starts = [0, *(m.end() for m in re.finditer(rb"\n", source)), len(source)]

    def all(self) -> Iterator[Mutant]:
        """Every change there is."""
        for node in _meaningful(ast.parse(self.source)):
            yield from self._of(node)

    # ---- places
    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Offsets of a node, whose columns count bytes."""
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def _text(self, start: int, end: int) -> str:
        return self.source[start:end].decode()

    def _between(self, left: ast.expr, right: ast.expr, wanted: dict[str, str]) -> tuple[int, str] | None:
        """The one of these operators that stands between two expressions."""
        start, end = self._span(left)[1], self._span(right)[0]
        for word in _BETWEEN.finditer(self.source, start, end):
            if (text := word.group().decode()) in wanted:
                return word.start(), text
        return None

    def _mutant(self, kind: str, start: int, end: int, new: str) -> Mutant:
        line = bisect_right(self._starts, start)
        before = self._text(self._starts[line - 1], start)
        behind = self._text(end, self._starts[bisect_left(self._starts, end)])
        return Mutant(self.file, line, kind, start, end, self._text(start, end), new, before, behind)

    def _operator(self, kind: str, left: ast.expr, right: ast.expr, swaps: dict[str, str]) -> Iterator[Mutant]:
        found = self._between(left, right, swaps)
        if found is not None:
            at, text = found
            yield self._mutant(kind, at, at + len(text), swaps[text])

    # ---- changes
    def _of(self, node: ast.AST) -> Iterator[Mutant]:
        match node:
            case ast.BinOp(left=left, right=right) if not (_joined(left) or _joined(right)):
                yield from self._operator("operator", left, right, OPERATORS)
            case ast.AugAssign(target=target, value=value):
                if not _joined(value):
                    yield from self._operator("operator", target, value, OPERATORS)
                yield self._removed(node)
            case ast.Compare(left=left, comparators=[right]):
                yield from self._operator("comparison", left, right, COMPARISONS)
            case ast.BoolOp(values=values):
                # All of them at once: of `a and b and c` the tree is one node.
                yield from self._boolean(node, values)
            case ast.UnaryOp(op=ast.Not()):
                start, end = self._span(node)
                kept = self._text(start, end).removeprefix("not").lstrip()
                yield self._mutant("not", start, end, kept)
            case ast.Constant(value=value) if type(value) is int:
                for new in {0: (1,), 1: (0,)}.get(value, (value + 1, value - 1)):
                    yield self._mutant("constant", *self._span(node), str(new))
            case ast.Call(func=function, args=arguments):
                yield from self._extreme(function)
                yield from self._arguments(function, arguments)
            case ast.Expr(value=ast.Call()):
                yield self._removed(node)
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield self._removed(node)

    def _removed(self, node: ast.stmt) -> Mutant:
        return self._mutant("removed", *self._span(node), "pass")

    def _boolean(self, node: ast.BoolOp, values: list[ast.expr]) -> Iterator[Mutant]:
        start, end = self._span(node)
        new, done = b"", start
        for left, right in pairwise(values):
            at, text = self._between(left, right, BOOLEAN) or (done, "")
            new += self.source[done:at] + BOOLEAN.get(text, "").encode()
            done = at + len(text)
        yield self._mutant("boolean", start, end, (new + self.source[done:end]).decode())

    def _extreme(self, function: ast.expr) -> Iterator[Mutant]:
        name = getattr(function, "id", getattr(function, "attr", ""))
        if name in EXTREMES:
            end = self._span(function)[1]
            yield self._mutant("min or max", end - len(name), end, EXTREMES[name])

    def _arguments(self, function: ast.expr, arguments: list[ast.expr]) -> Iterator[Mutant]:
        if getattr(function, "id", "") in TYPES:
            return
        for one, other in pairwise(arguments):
            if isinstance(one, ast.Name) and isinstance(other, ast.Name) and one.id != other.id:
                start, end = self._span(one)[0], self._span(other)[1]
                between = self._text(self._span(one)[1], self._span(other)[0])
                yield self._mutant("arguments", start, end, other.id + between + one.id)


def _joined(node: ast.expr) -> bool:
    """Whether this is text or a list written out."""
    return isinstance(node, NEVER_NUMBERS) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _meaningful(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree whose change a test could find."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        for name in node._fields:
            if name not in HINTS:
                value = getattr(node, name, None)
                left += [child for child in (value if isinstance(value, list) else (value,)) if _counts(child)]


def _counts(child: object) -> bool:
    """Whether this is a node, and neither an error, nor text with numbers in it, nor for type checkers alone."""
    if isinstance(child, ast.If) and isinstance(child.test, ast.Name | ast.Attribute):
        return getattr(child.test, "id", getattr(child.test, "attr", "")) != "TYPE_CHECKING"
    return isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.JoinedStr | ast.expr_context)
