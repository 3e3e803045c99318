"""Figure 2: what is measured, what it is compared with, and the picture."""

from dataclasses import replace
from pathlib import Path

import pytest

from mest_compiler.bench import figure2
from mest_compiler.bench.break_even import BreakEven
from mest_compiler.bench.figure2 import Figure, Point, break_evens, calmest, in_order, measure, plan
from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.bench.plots import plot_figure2
from mest_compiler.errors import BenchError, ProfileError
from mest_compiler.sparsity.schemes import get_scheme

LAYER = LayerSpec.parse("layer:8,8,3,6x6")
FIGURE = Figure(LAYER, batch=8, seed=0, threads=1, rounds=2, device="cpu", command="mest report figure2")
SAMPLE = Point(
    scheme="block", sparsity=0.5, ms_sparse=2.0, ms_dense=3.0, ms_torch=4.0, speedup_torch=2.0, speedup_dense=1.5,
    spread=0.1, slowed=1.0, threads=1, machine="a machine, 2 cores, avx2", date="2026-11-21",
    command="mest report figure2 $1 $2",
    zeros=0.5, torch_variant="torch_nchw_direct", kernels="a b c", max_rel_error=1e-7,
    layer=str(LAYER), batch=8, seed=0, rounds=2, device="cpu", torch="2.13", tvm="0.27",
)  # fmt: skip


def _curve(scheme: str, *speedups: float) -> list[Point]:
    sparsities = (0.5, 0.7, 0.9)
    points = zip(sparsities, speedups, strict=True)
    return [replace(SAMPLE, scheme=scheme, sparsity=s, zeros=s, speedup_torch=speedup) for s, speedup in points]


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return [point for group in measure(FIGURE, [(0.5, ("unstructured", "block"))]) for point in group]


@pytest.mark.slow
def test_schemes_meet_the_same_opponents(points: list[Point]) -> None:
    assert [point.scheme for point in points] == ["unstructured", "block"]
    first, second = points
    assert (first.ms_torch, first.ms_dense) == (second.ms_torch, second.ms_dense)
    assert first.torch_variant.startswith("torch_")
    for point in points:
        assert point.speedup_torch == pytest.approx(point.ms_torch / point.ms_sparse)
        assert point.speedup_dense == pytest.approx(point.ms_dense / point.ms_sparse)
        assert len(point.kernels.split()) == 3
        assert 0 < point.max_rel_error < 1e-5
        assert (point.sparsity, point.zeros) == (0.5, pytest.approx(0.5))
        assert (point.layer, point.rounds, point.command) == (str(LAYER), 2, "mest report figure2")


def test_progress_counts_the_turns_of_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def turns(figure: Figure, sparsity: float, names: tuple[str, ...], progress) -> list[Point]:
        progress(1, 99, names[0])
        return []

    monkeypatch.setattr(figure2, "_measured", turns)
    seen = []
    groups = [(0.5, ("block",)), (0.9, ("block", "unstructured"))]
    list(measure(FIGURE, groups, lambda *turn: seen.append(turn)))
    assert seen == [(1, 26, "50% zeros, block"), (13, 26, "90% zeros, block")]


def test_plan_leaves_out_what_is_done_and_what_cannot_be() -> None:
    names = ("unstructured", "block:4x1")
    assert plan(LAYER, names, (0.9, 0.5, 0.9)) == [(0.5, ("unstructured", "block")), (0.9, ("unstructured", "block"))]
    assert plan(LAYER, names, (0.5, 0.9), [SAMPLE]) == [(0.5, ("unstructured",)), (0.9, ("unstructured", "block"))]
    assert plan(LAYER, ("block",), (0.9999,)) == []  # keeps nothing of so small a layer


@pytest.mark.parametrize(
    ("layer", "names", "sparsity", "sentence"),
    [
        ("layer:8,8,3,6x6", ("blok",), 0.5, "no sparsity scheme 'blok'"),
        ("layer:8,6,3,6x6", ("block",), 0.5, "has 6 filters, which"),
        ("layer:8,8,3,6x6", ("block",), 90.0, "The sparsity of a figure is 90.0"),
    ],
)
def test_bad_plans(layer: str, names: tuple[str, ...], sparsity: float, sentence: str) -> None:
    with pytest.raises(ProfileError, match=sentence):
        plan(LayerSpec.parse(layer), names, (sparsity,))


@pytest.mark.parametrize("name", figure2.SCHEMES)
def test_every_scheme_of_the_figure_exists(name: str) -> None:
    assert get_scheme(name).name == name


def test_patterns_begin_at_five_ninths() -> None:
    layer = LayerSpec.parse(figure2.LAYER)
    assert [sparsity for sparsity, _ in plan(layer, ("pattern",), figure2.SPARSITIES)] == [
        0.6,
        0.7,
        0.8,
        0.9,
        0.95,
        0.98,
    ]


def test_points_of_another_machine(tmp_path: Path) -> None:
    here = [replace(SAMPLE, **FIGURE.origin())]
    FIGURE.check(tmp_path, here)
    with pytest.raises(BenchError, match="measured with machine a phone"):
        FIGURE.check(tmp_path, [replace(here[0], machine="a phone")])
    with pytest.raises(BenchError, match="measured with batch 8, not 64"):
        replace(FIGURE, batch=64).check(tmp_path, here)


def test_break_evens_are_of_the_masks_zeros() -> None:
    points = [*_curve("block", 0.8, 1.2, 2.0), *_curve("unstructured", 0.1, 0.2, 0.3), *_curve("filter", 2.0, 3.0, 4.0)]
    found = break_evens(in_order(points))
    assert list(found) == ["unstructured", "block", "filter"]
    assert found["block"].sparsity == pytest.approx(0.6)
    assert found["unstructured"] == BreakEven(None, False, 0.5, 0.9)
    assert found["filter"] == BreakEven(0.5, True, 0.5, 0.9)


def test_picture(tmp_path: Path) -> None:
    points = [*_curve("block", 0.8, 1.2, 2.0), *_curve("own", 0.1, 0.2, 0.3)]
    plot_figure2(tmp_path / "figure2.png", points, break_evens(points))
    assert (tmp_path / "figure2.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_calmest_point_of_a_place_stays() -> None:
    slowed, calm = (replace(SAMPLE, slowed=ratio, ms_sparse=ms) for ratio, ms in ((1.6, 1.0), (1.1, 2.0)))
    other = replace(SAMPLE, sparsity=0.3, slowed=2.0)
    assert calmest([slowed, other, calm, slowed]) == [other, calm]
    assert [point.calm for point in (slowed, other, calm)] == [False, False, True]
