"""Makes a Python import the packages from the folders of one tree, wherever else they are installed.

A copied tree's own environment runs `install` at every start of Python (see `copied_tree`), so that child processes of
tests import the copy too, whatever folder they run in and whatever PYTHONPATH they are given. It stands by itself: it
is copied into that environment and knows nothing of the project.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType


class TreeFinder(MetaPathFinder):
    """Finds packages, by their dotted names, in the folders that it was given; what lies inside them Python finds."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self.folders = dict(folders)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package's, if it is one of ours."""
        folder = self.folders.get(fullname)
        if folder is None:
            return None
        module = Path(folder, "__init__.py")
        if module.exists():
            return spec_from_file_location(fullname, module, submodule_search_locations=[folder])
        spec = ModuleSpec(fullname, None, is_package=True)  # a folder of data
        spec.submodule_search_locations = [folder]
        return spec


def install(folders: Mapping[str, str]) -> None:
    """From now on these packages come from these folders, before anything else that would find them."""
    sys.meta_path.insert(0, TreeFinder(folders))
