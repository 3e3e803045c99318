"""Plants faults one at a time in a copy of the working tree and says which of them the tests find.

`python -m tests.faults.run_faults [--only NAME] [--tests "pytest args"] [--json FILE]` from the repository's folder
takes the faults of `planted` and exits with 1 if any was not found. With `--mutants N --seed S` it takes N mutants of
`mutator` in their place, and survivors are only counted: some compute the same. `docs/testing.md` says what for.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .copied_tree import FaultsError, Tree, copied_tree
from .mutator import Mutant, draw, suites_of
from .planted import FAULTS
from .search import FOUND, SURVIVED, Searched, search

LIMIT_S = 1200
"""Seconds that a search may take: those of a mutant run whole folders of tests."""
NOT = "NOT"
"""What the table says of a planted fault that survived: those are not to be overlooked."""
USAGE, INTERRUPTED = 2, 130
"""Exit codes where nothing was looked for, and where a person ended the search."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    asked = _parsed(arguments)
    try:
        return _mutants(asked) if asked.mutants is not None else _faults(asked)
    except FaultsError as error:
        print(f"run_faults: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("run_faults: interrupted; the copied tree is gone", file=sys.stderr)
        return INTERRUPTED


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.faults.run_faults", description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="this planted fault (may be given again)")
    parser.add_argument("--tests", metavar="ARGS", help="arguments of pytest, in place of what each fault names")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go too")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="seconds a search (%(default)s)")
    parser.add_argument("--mutants", type=int, metavar="N", help="so many drawn mutants, in place of planted faults")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="draws the mutants (%(default)s)")
    asked = parser.parse_args(arguments)
    if asked.mutants is not None and asked.only:
        parser.error("--only names a planted fault, and --mutants draws others: give one of the two")
    if asked.mutants is not None and asked.mutants < 1:
        parser.error("--mutants is at least 1")
    return asked


def _faults(asked: argparse.Namespace) -> int:
    known = {fault.name: fault for fault in FAULTS}
    unknown = [name for name in asked.only or () if name not in known]
    if unknown:
        raise FaultsError(f"There is no fault {unknown[0]!r}; there are {', '.join(known)}.")
    chosen = [known[name] for name in asked.only or known]
    results: list[dict[str, Any]] = []
    with copied_tree() as tree:
        texts = [(tree.root / fault.file).read_text(encoding="utf-8") for fault in chosen]
        contents = [fault.plant(text).encode() for fault, text in zip(chosen, texts, strict=True)]  # all before any
        for fault, content in zip(chosen, contents, strict=True):
            done = search(tree, fault.file, content, _tests(asked, fault.tests), asked.limit)
            _row(f"{fault.name:28}", NOT if done.outcome == SURVIVED else done.outcome, done)
            results.append({"name": fault.name, "file": fault.file, "breaks": fault.breaks, **_values(done)})
            _write(asked.json, {"faults": results})
    missed = [result["name"] for result in results if result["outcome"] != FOUND]
    print(f"{len(results) - len(missed)} of {len(results)} found" + (f"; not: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


def _mutants(asked: argparse.Namespace) -> int:
    results: list[dict[str, Any]] = []
    with copied_tree() as tree:
        for mutant, content in _drawn(tree, asked.mutants, asked.seed):
            done = search(tree, mutant.file, content, _tests(asked, suites_of(mutant.file)), asked.limit)
            shown = f"{mutant.file}:{mutant.line}: {mutant.shown}"
            _row(shown, done.outcome, done)
            results.append({"file": mutant.file, "line": mutant.line, "old": mutant.old, "new": mutant.new})
            results[-1].update(kind=mutant.kind, **_values(done))
            _write(asked.json, {"seed": asked.seed, "mutants": results})
    counted = Counter(result["outcome"] for result in results)
    print(", ".join(f"{number} {outcome}" for outcome, number in counted.most_common()))
    return 0


def _drawn(tree: Tree, count: int, seed: int) -> Iterator[tuple[Mutant, bytes]]:
    for mutant in draw(tree.root, count, seed):
        yield mutant, mutant.apply((tree.root / mutant.file).read_bytes())


def _tests(asked: argparse.Namespace, tests: Sequence[str]) -> list[str]:
    return shlex.split(asked.tests) if asked.tests else list(tests)


def _row(what: str, outcome: str, done: Searched) -> None:
    """One line at once: a search takes minutes."""
    print(f"{what}  {outcome}  {done.seconds:.0f} s  {done.test}".rstrip(), flush=True)


def _values(done: Searched) -> dict[str, Any]:
    return {"outcome": done.outcome, "test": done.test, "seconds": round(done.seconds, 1)}


def _write(path: Path | None, content: dict[str, Any]) -> None:
    """After each search, so that an interrupted command leaves what it knows."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
