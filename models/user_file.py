"""A user's Python file and what it imports from beside it, as if Python ran that file.

Python would put the file's folder first on sys.path and know its neighbours by their plain names, of which a process
has one each. Here several files are run one after the other, so every module that a file brings along is known by a
name of its own, made from the file's path, and by its plain name only while the file runs: equal names of two files
never meet, and pickling and inspect find a class's module for as long as the process lives.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

INSTALLED = frozenset({"site-packages", "dist-packages"})


class UserFile(MetaPathFinder):
    """One file, run anew by every `run`; while `importing` is entered, also the finder of what it imports.

    A file in a package (its folder has an __init__.py) may import relatively, too. Modules that Python has already
    loaded from its own library or from installed packages go before neighbours of the same name.
    """

    def __init__(self, file: Path) -> None:
        self.file = file.resolve()
        self.name = f"_mest_model_{hashlib.sha256(str(self.file).encode()).hexdigest()[:16]}"
        root, parts = self.file.parent, []
        while (root / "__init__.py").is_file():
            root, parts = root.parent, [root.name, *parts]
        self._package = ".".join(parts)
        self._folders = [str(folder) for folder in dict.fromkeys((self.file.parent, root))]
        self._before: list[str] = []
        self._plain: dict[str, ModuleType] = {}

    @contextmanager
    def importing(self) -> Iterator[None]:
        """The block imports as the file does; if it fails, none of the file's modules is left."""
        self._forget()
        self._before, displaced = list(sys.path), self._displaced()
        for name in displaced:
            del sys.modules[name]
        sys.path[:0] = self._folders
        importlib.invalidate_caches()  # or a file that was just written is not seen
        # after the modules that are part of Python itself
        place = next((i for i, finder in enumerate(sys.meta_path) if finder is PathFinder), len(sys.meta_path))
        sys.meta_path.insert(place, self)
        try:
            yield
        except BaseException:
            self._forget()
            raise
        finally:
            sys.meta_path.remove(self)
            sys.path[:] = self._before
            for name, module in self._plain.items():
                if sys.modules.get(name) is module:
                    del sys.modules[name]
            self._plain.clear()
            sys.modules.update(displaced)

    def run(self) -> ModuleType:
        """The module, executed; raises what the file raises."""
        # Like a script's, its name is not what others import it by: a package may import this very file.
        dotted = ".".join(part for part in (self._package, self.file.stem) if part)
        loader = _SourceLoader(self._own_name(dotted), str(self.file))
        module = module_from_spec(spec_from_file_location(loader.name, self.file, loader=loader))
        module.__name__ = self.name
        sys.modules[self.name] = module
        exec(loader.get_code(loader.name), module.__dict__)
        return module

    def described(self, error: BaseException) -> str:
        """Kind and message of an error, and the line of the user's code, in this file or beside it, that it came to."""
        if isinstance(error, SyntaxError) and error.filename is not None:
            return f"{type(error).__name__}: {error.msg} (line {error.lineno} of {error.filename})"
        said = f"{type(error).__name__}: {error}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            path = Path(frame.filename)
            if not INSTALLED & set(path.parts) and any(path.is_relative_to(folder) for folder in self._folders):
                return f"{said} (line {frame.lineno} of {path})"
        return said

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that the file brings along, under the file's own name for it."""
        plain = fullname.removeprefix(f"{self.name}_")
        if path is None:
            found = self._found_first(plain)
        elif plain.rpartition(".")[0] in self._plain:
            found = PathFinder.find_spec(plain, path)
        else:
            return None
        if found is None:
            return None
        name, inside = self._own_name(plain), found.submodule_search_locations
        if found.loader is None:  # a folder without __init__.py
            spec = ModuleSpec(name, _FolderLoader(plain, self._plain), is_package=True)
            spec.submodule_search_locations = list(inside)
            return spec
        if not isinstance(found.loader, SourceFileLoader):
            return found  # compiled: its name is part of it
        loader = _NeighbourLoader(name, found.origin, plain, self._plain)
        return spec_from_file_location(name, found.origin, loader=loader, submodule_search_locations=inside)

    def _own_name(self, plain: str) -> str:
        return f"{self.name}_{plain}"

    def _found_first(self, name: str) -> ModuleSpec | None:
        """Where sys.path leads a top-level name; None if that is no place which the file has put there."""
        folder = None
        for entry in sys.path:
            found = PathFinder.find_spec(name, [entry])
            if found is None:
                continue
            own = entry in self._folders or entry not in self._before
            if found.loader is not None or not own:
                return found if own else None
            folder = folder or found  # modules and packages further on go before folders
        return folder

    def _displaced(self) -> dict[str, ModuleType]:
        """Modules of the calling program that have the name of a neighbour and are something else."""
        displaced = {}
        for folder, name, _ in pkgutil.iter_modules(self._folders):
            origin = getattr(sys.modules.get(name), "__file__", None)
            if origin is None or name in sys.stdlib_module_names or INSTALLED & set(Path(origin).parts):
                continue
            place = Path(folder.path)
            if Path(origin).resolve() not in (place / f"{name}.py", place / name / "__init__.py"):
                displaced |= {n: m for n, m in sys.modules.items() if n == name or n.startswith(f"{name}.")}
        return displaced

    def _forget(self) -> None:
        """Drop what an earlier run has loaded."""
        for name in [name for name in sys.modules if name == self.name or name.startswith(f"{self.name}_")]:
            del sys.modules[name]


class _SourceLoader(SourceFileLoader):
    """Without compiled files, which may be of an older source of the same second, and need a place beside it."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _NeighbourLoader(_SourceLoader):
    """Of a module that is known by its plain name, too, from before it runs: others may import it in a circle."""

    def __init__(self, name: str, path: str, plain: str, known: dict[str, ModuleType]) -> None:
        super().__init__(name, path)
        self._plain, self._known = plain, known

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[self._plain] = self._known[self._plain] = module
        try:
            super().exec_module(module)
        except BaseException:
            del self._known[self._plain]
            sys.modules.pop(self._plain, None)
            raise


class _FolderLoader(Loader):
    """Of a namespace package."""

    def __init__(self, plain: str, known: dict[str, ModuleType]) -> None:
        self._plain, self._known = plain, known

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[self._plain] = self._known[self._plain] = module
