"""Cache folder and keys: one rule for the folder, and a key for whatever differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mest_compiler import caching


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"MEST_CACHE": ""}, None),
        ({"MEST_CACHE": "/named"}, "/named/kind"),
        ({"MEST_CACHE": "/named", "XDG_CACHE_HOME": "/xdg"}, "/named/kind"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/mest_compiler/kind"),
        ({"XDG_CACHE_HOME": ""}, "/home/.cache/mest_compiler/kind"),
        ({}, "/home/.cache/mest_compiler/kind"),
    ],
)
def test_the_folder(variables: dict[str, str], folder: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home"} | variables).items():
        monkeypatch.setenv(name, value)
    assert caching.folder("kind") == (None if folder is None else Path(folder))


def test_keys_tell_facts_apart() -> None:
    facts = [{"a": 1}, {"a": "1"}, {"a": 1.0}, {"a": [1]}, {"a": None}, {"b": 1}, {"a": 1, "b": 1}, {}]
    assert len({caching.key(**some) for some in facts}) == len(facts)
    assert caching.key(a=1, b=2) == caching.key(b=2, a=1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        caching.key(a=object())


def test_sources_are_names_and_contents(tmp_path: Path) -> None:
    written = {"base": ("a.py", "x"), "content": ("a.py", "y"), "name": ("b.py", "x"), "moved": ("in/a.py", "x")}
    for folder, (name, text) in {**written, "same": written["base"]}.items():
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    found = {folder: caching.sources([str(tmp_path / folder)]) for folder in [*written, "same"]}
    assert found["same"] == found["base"] and len(set(found.values())) == len(written)
