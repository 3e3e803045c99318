"""What differs between kinds of devices, backends, device runtimes and profiles say: nobody else asks for a kind.

A kind is asked for by comparing it, by choosing from a table with a line a kind, or by a profile's class.
"""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("mest_compiler", "schedules", "models")
BACKENDS = sorted((REPOSITORY / "schedules").glob("*/backend.py"))
KINDS = {path.parent.name for path in BACKENDS}
PROFILES = {"CpuProfile", "OpenClProfile"}
OF_DEVICES = ("device", "profile", "target", "backend")
"""In the name of what has a device's kind: a dtype's, a layer's or a loop's kind is another thing."""


def _name(node: ast.expr) -> str:
    """The last name of an expression, as `device` of `self.device` and `get_device` of a call."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(func=function):
            return _name(function)
    return ""


def _of_device(node: ast.expr) -> bool:
    """Whether it is the kind of something that is called a device."""
    return (
        isinstance(node, ast.Attribute | ast.Subscript)
        and _name(node) == "kind"
        and any(one in _name(node.value).lower() for one in OF_DEVICES)
    )


def asks(source: str) -> list[int]:
    """Lines that ask for a device's kind."""
    tree, found = ast.parse(source), []
    constants = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def names_kind(node: ast.expr) -> bool:
        some = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
        return any(getattr(one, "value", constants.get(_name(one))) in KINDS for one in some)

    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides = [left, *others]
                kind = any(_name(side) == "kind" for side in sides) and any(map(names_kind, sides))
                asked = kind or any(map(_of_device, sides))
            case ast.Match(subject=subject):
                asked = _of_device(subject)
            case ast.Dict(keys=keys):
                asked = len({key.value for key in keys if isinstance(key, ast.Constant)} & KINDS) > 1
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, classes]):
                asked = any(_name(one) in PROFILES for one in ast.walk(classes) if isinstance(one, ast.expr))
            case _:
                asked = False
        if asked:
            found.append(node.lineno)
    return found


def test_only_backends_know_kinds_apart() -> None:
    assert {"cpu", "opencl"} <= KINDS
    paths = (p for folder in FOLDERS for p in sorted((REPOSITORY / folder).rglob("*.py")) if p not in BACKENDS)
    found = {str(p.relative_to(REPOSITORY)): lines for p in paths if (lines := asks(p.read_text(encoding="utf-8")))}
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "device.kind == 'cpu'", "self.device.kind != other", "get_device(name).kind in SOME", "'cpu' == target.kind",
        "manifest['device']['kind'] == X", "kind == 'opencl'", "here['kind'] not in ('cpu', 'cuda')",
        "module.kind == 'opencl'", "CPU = 'cpu'\na = kind == CPU", "open_of = {'cpu': f, 'opencl': g}[kind]",
        "match profile.kind:\n    case 'cpu': pass", "isinstance(device, CpuProfile)",
        "isinstance(device, devices.OpenClProfile | str)",
    ],
)  # fmt: skip
def test_what_is_found(line: str) -> None:
    assert len(asks(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "array.dtype.kind in 'biuf'", "target.kind.name != 'llvm'", "step.kind is StepKind.FIRST", "kind == 'torch'",
        "name == 'cpu'", "backend_of(device).noalias", "{'kind': 'opencl'}", "layer.kind.axis == 1",
        "isinstance(layer, ConvGeometry)", "kind = device.kind",
    ],
)  # fmt: skip
def test_what_is_not(line: str) -> None:
    assert asks(line) == []
