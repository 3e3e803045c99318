"""What a planted fault is, and how it is put into a file."""

from __future__ import annotations

from dataclasses import dataclass

from .copied_tree import FaultsError


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: in tables, and of `--only`. file: that is changed, from the repository's folder. old, new: its text, which
        stands there exactly once, and the faulty one. breaks: what goes wrong, in one sentence. tests: files or folders
        of tests that should find it, the quickest first.
    """

    name: str
    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]

    def plant(self, text: str) -> str:
        """The file's text with the fault.

        Raises:
            FaultsError: the text to change is not there exactly once, so the code has moved on.
        """
        count = text.count(self.old)
        if count != 1:
            raise FaultsError(
                f"Fault {self.name!r} cannot be planted, because its text is {count} times in {self.file} and not "
                "once: give it the text as it is now, in tests/faults/planted.py."
            )
        return text.replace(self.old, self.new)
