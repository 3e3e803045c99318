"""The measured choice: it takes the fastest, remembers what it measured, and never trusts a damaged cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mest_compiler import caching, kernels, pace, schedules
from mest_compiler.caching import FOLDER
from mest_compiler.devices import CpuProfile
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.pace import Pacer
from mest_compiler.schedules.candidates import candidates
from mest_compiler.schedules.choice import Choice
from mest_compiler.tuning import fastest
from mest_compiler.tuning.fastest import Fastest, label, random_structure
from mest_compiler.tuning.layer_run import Operands, kernel_call

from ..schedules.convolutions import Conv
from ..schedules.sparse_layers import SCHEMES, SparseCase, fitted, hostile_masks, sparse_conv, with_capacity
from ..schedules.tiles import NARROW, WIDE, profile, vector
from ..whole_step.cases import unoptimised

DEVICE = profile(NARROW)
LAYER = sparse_conv(
    Conv(4, 6, (5, 4), kernel=(1, 1), padding=(0, 0)), vector(NARROW, "float32"), "unstructured", spare=0
)
FOUND = candidates("forward", DEVICE, LAYER)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that does not exist yet."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastest"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many kernels each measurement ran; the first of them takes 5 ms, the next 4 and so on."""
    found: list[int] = []

    def times(calls: list[Callable[[], None]], rounds: int, sync: Callable[[], None]) -> list[list[float]]:
        found.append(len(calls))
        return [[5.0 - i] * rounds for i in range(len(calls))]

    monkeypatch.setattr(fastest, "kernel_call", lambda *args: None)
    monkeypatch.setattr(fastest, "interleaved_ms", times)
    monkeypatch.setattr(fastest, "_pacer", Pacer(patience=0.0))  # once, whatever runs beside the tests
    monkeypatch.setattr(pace, "beats", dict)
    return found


def test_several_kernels_can_compute_the_layer_of_these_tests() -> None:
    assert len(FOUND) == len({label(choice) for choice in FOUND}) > 1


def test_the_fastest_is_taken_and_remembered(cache: Path, measured: list[int]) -> None:
    pick, said = Fastest(DEVICE), []
    choice = pick("forward", LAYER, FOUND)
    assert choice == replace(FOUND[-1], source="measured") and measured == [len(FOUND)]
    assert dict(choice.times) == {label(one): 5.0 - i for i, one in enumerate(FOUND)}
    assert choice.describe()["times"] == dict(choice.times)
    assert pick("forward", LAYER, FOUND) == choice and Fastest(DEVICE, said.append)("forward", LAYER, FOUND) == choice
    assert measured == [len(FOUND)] and said == []  # the second from the file
    assert [path.suffix for path in cache.iterdir()] == [".json"]


@pytest.mark.parametrize(("sparse_ms", "taken"), [(0.94, "sparse"), (0.96, "dense"), (1.1, "dense")])
def test_a_sparse_kernel_must_win(sparse_ms: float, taken: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = next(choice for choice in FOUND if choice.family == "zeros")
    sparse = next(choice for choice in FOUND if choice.family != "zeros")
    monkeypatch.setattr(fastest, "kernel_call", lambda *args: None)
    monkeypatch.setattr(fastest, "interleaved_ms", lambda calls, rounds, sync: [[sparse_ms], [1.0]])
    choice = Fastest(DEVICE)("forward", LAYER, [sparse, dense])
    assert choice.kernel == (sparse if taken == "sparse" else dense).kernel


def test_only_one_is_not_measured(cache: Path, measured: list[int]) -> None:
    assert Fastest(DEVICE)("forward", LAYER, FOUND[:1]) is FOUND[0]
    assert measured == [] and not cache.exists()


def _others() -> dict[str, tuple[object, str, LayerProblem, list[Choice]]]:
    g = LAYER.geometry
    slower = [replace(choice, knobs=replace(choice.knobs, pixels=1)) for choice in FOUND]
    return {
        "device": (replace(DEVICE, threads=DEVICE.threads + 1), "forward", LAYER, FOUND),
        "direction": (DEVICE, "backward_data", LAYER, FOUND),
        "capacity": (DEVICE, "forward", with_capacity(LAYER, LAYER.sparse.capacity - 1), FOUND),
        "batch": (DEVICE, "forward", replace(LAYER, geometry=replace(g, tiles=g.tiles + 1)), FOUND),
        "knobs": (DEVICE, "forward", LAYER, slower),
    }


@pytest.mark.parametrize("what", _others())
def test_what_differs_is_measured_again(what: str, cache: Path, measured: list[int]) -> None:
    device, direction, layer, found = _others()[what]
    Fastest(DEVICE)("forward", LAYER, FOUND)
    Fastest(device)(direction, layer, found)
    assert len(measured) == len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("package", [kernels, schedules])
def test_an_edit_of_the_sources_is_measured_again(
    package: ModuleType, cache: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copies = [tmp_path / name for name in ("same", "edited")]
    for copy in copies:
        shutil.copytree(package.__path__[0], copy)
    first = next((copies[1]).rglob("*.py"))
    first.write_text(first.read_text() + "# faster\n")
    for path in (package.__path__[0], *copies):
        monkeypatch.setattr(package, "__path__", [str(path)])
        Fastest(DEVICE)("forward", LAYER, FOUND)
    assert len(measured) == 2


def test_times_of_other_code_are_not_taken(cache: Path, measured: list[int]) -> None:
    """A file left by other code, of the very kernels that are asked for: whatever it says, they are measured."""
    stale = Fastest(DEVICE)
    stale("forward", LAYER, FOUND)
    (path,) = cache.iterdir()
    another = [replace(FOUND[0], make=FOUND[1].make), *FOUND[1:]]  # under the name of the first
    assert Fastest(DEVICE)("forward", LAYER, another).times == dict(stale("forward", LAYER, FOUND).times)
    assert len(measured) == 2 and len([*cache.iterdir()]) == 2 and path.exists()


GOOD = {label(choice): 1.0 for choice in FOUND}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b"[]", b"[1, 2]", b"null", b"7", b"{}", b'{"another": 1.0}',
        repr(GOOD).replace("'", '"').replace("1.0", '"fast"').encode(),
        repr(GOOD).replace("'", '"').replace("1.0", "null").encode(),
        repr(GOOD).replace("'", '"').replace("1.0", "NaN").encode(),
    ],
)  # fmt: skip
def test_a_damaged_file_is_measured_anew(content: bytes, cache: Path, measured: list[int]) -> None:
    choice = Fastest(DEVICE)("forward", LAYER, FOUND)
    (path,) = cache.iterdir()
    good = path.read_bytes()
    path.write_bytes(content)
    assert Fastest(DEVICE)("forward", LAYER, FOUND) == choice
    assert len(measured) == 2 and path.read_bytes() == good


def test_a_folder_that_cannot_be_written(cache: Path, measured: list[int]) -> None:
    cache.parent.write_text("in the way")
    assert Fastest(DEVICE)("forward", LAYER, FOUND).source == "measured"
    assert cache.parent.read_text() == "in the way"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({FOLDER: ""}, None),
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg/mest_compiler/fastest"),
        ({"XDG_CACHE_HOME": ""}, "home/.cache/mest_compiler/fastest"),
        ({FOLDER: "{}/named"}, "named/fastest"),
    ],
)
def test_where_the_cache_is(
    variables: dict[str, str], folder: str | None, measured: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    Fastest(DEVICE)("forward", LAYER, FOUND)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent for path in files] == ([tmp_path / folder] if folder else [])


def test_the_tests_leave_the_users_cache_alone(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert caching.folder("fastest") is None


def test_a_real_measurement(cache: Path) -> None:
    found = candidates("backward_weight", DEVICE, LAYER)
    choice = Fastest(DEVICE)("backward_weight", LAYER, found)
    assert set(choice.times) == {label(one) for one in found} and min(choice.times.values()) > 0
    assert choice.times[label(choice)] * fastest.TIE <= min(choice.times.values())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_random_structure_fills_the_capacity(scheme: str) -> None:
    full = sparse_conv(fitted(Conv(7, 6, (5, 4)), scheme), vector(NARROW, "float32"), scheme, spare=0)
    rows, most = full.sparse.rows, full.sparse.capacity
    for capacity in sorted({1, rows, rows + 1, most // 2, most - 1, most}):
        layer = with_capacity(full, capacity)
        structure = random_structure(layer.sparse)
        structure.validate()
        assert (structure.entries, structure.spec.capacity) == (capacity, capacity)
        assert np.ptp(structure.lengths) <= 1
        np.testing.assert_array_equal(structure.col, random_structure(layer.sparse).col)


VECTORS = ((NARROW, "float64"), (WIDE, "float32"))


LIKE_OTHERS = ("block", "block:8x1", "block:4x4")


# One kind of vectors a scheme; the other one is slow, and so are blocks that have the kernels of others.
@pytest.mark.parametrize(
    ("scheme", "bits", "dtype"),
    [
        pytest.param(scheme, *vectors, marks=() if (i + j) % 2 and scheme not in LIKE_OTHERS else pytest.mark.slow)
        for i, scheme in enumerate(SCHEMES)
        for j, vectors in enumerate(VECTORS[::-1])
    ],
)
def test_all_candidates_of_a_layer_agree(scheme: str, bits: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuProfile, "target", property(unoptimised))
    conv, device = fitted(Conv(5, 6, (5, 6), stride=(1, 1) if dtype == "float64" else (2, 1)), scheme), profile(bits)
    layer = sparse_conv(conv, vector(bits, dtype), scheme, spare=1)
    g, case = layer.geometry, SparseCase.make(conv, layer, hostile_masks(scheme, conv.weight_shape)["uneven rows"])
    s, families = case.structure, set()
    assert 0 < s.entries < s.spec.capacity
    for direction in DIRECTIONS:
        for choice in candidates(direction, device, layer):
            families.add(choice.family)
            o = Operands.of(device, g, case.data.x.numpy(), case.data.dy.numpy(), case.values().numpy())
            for tensor in (o.y, o.dx, o.dw):
                tensor.copyfrom(np.full(tensor.shape, np.nan, dtype))
            kernel_call(direction, choice, device, layer, o, s)()
            if direction == "backward_weight":
                wanted = s.compact(case.data.dw_ref)[: s.entries]
                case.data.check(label(choice), o.dw.numpy()[: s.entries], wanted)
            else:
                (case.data.check_y if direction == "forward" else case.data.check_dx)(
                    label(choice), o.y if direction == "forward" else o.dx
                )
    assert "zeros" in families and len(families) >= 2
