"""Plants faults one at a time in a copy of the working tree and says which of them the tests find.

`python -m tests.faults.run_faults [--only NAME] [--tests "pytest args"] [--revision REV] [--json FILE]` from the
repository's folder takes the faults of `planted` and exits with 1 if any was not found. With `--mutants N --seed S` it
takes N mutants of `mutator` in their place, and survivors are only counted: some compute the same. `docs/testing.md`
says what for.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mest_compiler.files import append_line

from .copied_tree import FaultsError, Tree, commit_of, copied_tree
from .mutator import draw, suites_of
from .planted import FAULTS
from .search import FOUND, SURVIVED, Searched, search

LIMIT_S = 1200
"""Seconds that a search may take: those of a mutant run whole folders of tests."""
NOT = "NOT"
"""What the table says of a planted fault that survived: those are not to be overlooked."""
USAGE, INTERRUPTED = 2, 130
"""Exit codes where nothing was looked for, and where a person ended the search."""


@dataclass(frozen=True)
class Hunt:
    """A fault to look for: the file with it, the tests that should find it, and what says which one it is."""

    shown: str
    file: str
    content: bytes
    tests: Sequence[str]
    facts: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    asked = _parsed(arguments)
    try:
        return _run(asked)
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
    parser.add_argument("--revision", metavar="REV", help="sources and tests of this commit, not the working tree's")
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="append a line (JSON) for each search as it ends; of a revision, what has one is not searched again",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="seconds a search (%(default)s)")
    parser.add_argument("--mutants", type=int, metavar="N", help="so many drawn mutants, in place of planted faults")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="draws the mutants (%(default)s)")
    asked = parser.parse_args(arguments)
    if asked.mutants is not None and asked.only:
        parser.error("--only names a planted fault, and --mutants draws others: give one of the two")
    if asked.mutants is not None and asked.mutants < 1:
        parser.error("--mutants is at least 1")
    return asked


def _run(asked: argparse.Namespace) -> int:
    commit = None if asked.revision is None else commit_of(asked.revision)
    _check_names(asked.only or ())
    known = {} if commit is None else _lines(asked.json)  # the working tree may have changed since
    with copied_tree(commit) as tree:
        results = []
        for hunt in list(_planted(asked, tree) if asked.mutants is None else _mutants(asked, tree)):  # all before any
            facts = {**hunt.facts, "commit": commit, "tests": asked.tests}
            results.append(known.get(_key(facts)) or _searched(tree, hunt, facts, asked))
    if asked.mutants is not None:
        counted = Counter(result["outcome"] for result in results)
        print(", ".join(f"{number} {outcome}" for outcome, number in counted.most_common()))
        return 0
    missed = [result["name"] for result in results if result["outcome"] != FOUND]
    print(f"{len(results) - len(missed)} of {len(results)} found" + (f"; not: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


def _check_names(wanted: Sequence[str]) -> None:
    names = [fault.name for fault in FAULTS]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise FaultsError(f"There is no fault {unknown[0]!r}; there are {', '.join(names)}.")


def _planted(asked: argparse.Namespace, tree: Tree) -> Iterator[Hunt]:
    known = {fault.name: fault for fault in FAULTS}
    for fault in (known[name] for name in asked.only or known):
        content = fault.plant((tree.root / fault.file).read_text(encoding="utf-8")).encode()
        facts = {"name": fault.name, "file": fault.file, "breaks": fault.breaks}
        yield Hunt(f"{fault.name:28}", fault.file, content, fault.tests, facts)


def _mutants(asked: argparse.Namespace, tree: Tree) -> Iterator[Hunt]:
    for mutant in draw(tree.root, asked.mutants, asked.seed):
        facts = {
            "seed": asked.seed, "file": mutant.file, "line": mutant.line, "start": mutant.start, "kind": mutant.kind,
            "old": mutant.old, "new": mutant.new,
        }  # fmt: skip
        content = mutant.apply((tree.root / mutant.file).read_bytes())
        yield Hunt(f"{mutant.file}:{mutant.line}: {mutant.shown}", mutant.file, content, suites_of(mutant.file), facts)


def _searched(tree: Tree, hunt: Hunt, facts: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    """Looks for one, and says and writes at once what came of it: a search takes minutes."""
    done: Searched = search(
        tree, hunt.file, hunt.content, shlex.split(asked.tests) if asked.tests else hunt.tests, asked.limit
    )
    outcome = NOT if done.outcome == SURVIVED and asked.mutants is None else done.outcome
    print(f"{hunt.shown}  {outcome}  {done.seconds:.0f} s  {done.test}".rstrip(), flush=True)
    took = {"seconds": round(done.seconds, 1), "cpu_seconds": round(done.cpu_seconds, 1)}
    result = {**facts, "outcome": done.outcome, "test": done.test, **took}
    if asked.json is not None:
        append_line(asked.json, json.dumps(result))
    return result


def _lines(path: Path | None) -> dict[str, dict[str, Any]]:
    """What a file says of searches that ended, by what was looked for; a line that was cut short says nothing."""
    if path is None or not path.exists():
        return {}
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return {_key(result): result for result in map(json.loads, whole)}


def _key(facts: dict[str, Any]) -> str:
    ended = ("outcome", "test", "seconds", "cpu_seconds")
    return json.dumps({name: value for name, value in facts.items() if name not in ended}, sort_keys=True)


if __name__ == "__main__":
    sys.exit(main())
