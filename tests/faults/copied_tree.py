"""A copy of the working tree, with an environment that imports the copy: where faults are planted and tests run.

The checkout itself is never changed. The package is installed editable, so a plain `pytest` in a copy would import the
checkout's modules and find nothing; the copy has an environment of its own, which borrows all other packages.
"""

from __future__ import annotations

import ast
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import tree_finder

CHECKOUT = Path(__file__).resolve().parents[2]
WHERE = """
import importlib, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    print(getattr(module, "__file__", None) or list(module.__path__)[0])
"""
"""Prints where packages are imported from."""


class FaultsError(Exception):
    """A sentence on why faults cannot be planted or looked for."""


@dataclass(frozen=True)
class Tree:
    """A copied tree.

    Attributes:
        root: its folder. python: the interpreter that imports it. scratch: a folder for what runs leave, beside it.
    """

    root: Path
    python: Path
    scratch: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables of whatever runs in the tree.

        No compiled modules are kept: a fault of the same length, planted within the same second, would run the old one.
        """
        left = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return {**left, "MEST_CACHE": "", "PYTHONDONTWRITEBYTECODE": "1"}

    @contextmanager
    def changed(self, file: str, content: bytes) -> Iterator[None]:
        """One file has other bytes for a while."""
        path = self.root / file
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            yield
        finally:
            path.write_bytes(before)


def commit_of(revision: str) -> str:
    """The hash of what git calls so.

    Raises:
        FaultsError: it calls nothing so.
    """
    command = ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    if done.returncode:
        raise FaultsError(f"git knows no revision {revision!r} in {CHECKOUT}: give a branch, a tag or a commit of it.")
    return done.stdout.strip()


@contextmanager
def copied_tree(commit: str | None = None) -> Iterator[Tree]:
    """A copy of the checkout as it is now, or as it was at a commit, in a temporary folder that goes away again.

    Raises:
        FaultsError: git does not know the files, or the copy is not what its Python imports.
    """
    with tempfile.TemporaryDirectory(prefix="mest-faults-") as name:
        folder = Path(name).resolve()
        root, scratch = folder / "tree", folder / "scratch"
        scratch.mkdir()
        if commit is None:
            _copy(root)
        else:
            _extract(commit, root)
        tree = Tree(root, _environment(folder / "env", package_folders(root)), scratch)
        check_imports(tree)
        yield tree


def package_folders(root: Path) -> dict[str, str]:
    """Folder of each package that setup.py maps to a folder of the tree, by its dotted name."""
    for node in ast.parse((root / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["FOLDERS"]:
            return {name: str(root / folder) for name, folder in ast.literal_eval(node.value).items()}
    raise FaultsError("setup.py no longer says in FOLDERS where the packages are: say it there or change copied_tree.")


def check_imports(tree: Tree) -> None:
    """Fails unless all packages are imported from the tree, whatever folder a process runs in.

    Raises:
        FaultsError: one comes from elsewhere.
    """
    names = list(package_folders(tree.root))
    for folder in (tree.root, tree.scratch):
        done = subprocess.run(
            [tree.python, "-c", WHERE, *names], cwd=folder, env=tree.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise FaultsError(f"The copy in {tree.root} cannot be imported: {done.stderr.strip()[-500:]}")
        for name, found in zip(names, done.stdout.splitlines(), strict=True):
            if not Path(found).resolve().is_relative_to(tree.root):
                raise FaultsError(f"{name} is imported from {found} and not from the copy in {tree.root}.")


def _copy(root: Path) -> None:
    """Files that git tracks, and those that it neither tracks nor ignores."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=CHECKOUT, capture_output=True, text=True
    )
    if done.returncode:
        raise FaultsError(f"git cannot say which files {CHECKOUT} has: {done.stderr.strip()}")
    for name in filter(None, done.stdout.split("\0")):
        source, target = CHECKOUT / name, root / name
        if source.is_file() or source.is_symlink():  # and not deleted since it was added
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _extract(commit: str, root: Path) -> None:
    """All files of a commit."""
    done = subprocess.run(["git", "archive", commit], cwd=CHECKOUT, capture_output=True)
    if done.returncode:
        raise FaultsError(f"git cannot give out {commit}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(root, filter="data")


def _environment(folder: Path, packages: dict[str, str]) -> Path:
    """The Python of a new environment that has these packages, and all others of the running one."""
    venv.EnvBuilder(symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # What .pth files in there would do is not done for folders that a .pth file names: the checkout stays out.
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    shutil.copy(Path(tree_finder.__file__), site / "mest_tree_finder.py")
    (site / "tree.pth").write_text(f"import mest_tree_finder; mest_tree_finder.install({packages!r})\n")
    return folder / "bin" / "python"
