"""Reads a YAML file into a mapping, without YAML's habit of letting a doubled key pass."""

from __future__ import annotations

from pathlib import Path

import yaml

from mest_compiler.errors import ProfileError


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key said twice in one mapping is an error instead of a silent override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """The mapping of a node, each key once."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = next((key for position, key in enumerate(keys) if key in keys[:position]), None)
        if doubled is not None:
            raise ProfileError(f"{doubled!r} is said twice: keep one of them.")
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, object]:
    """Content of a YAML file whose top level is a mapping.

    Raises:
        ProfileError: the file cannot be read, is no YAML, says a key twice or is no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ProfileError(f"it cannot be read ({error.strerror}): check the path.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no date, no number
        raise ProfileError(f"it is no YAML ({' '.join(str(error).split())}): correct it.") from error
    if not isinstance(content, dict):
        raise ProfileError("it is no mapping: start with the keys scheme and sparsity.")
    return content
