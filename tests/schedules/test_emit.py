"""Tile splits that every kernel's loops are made of: they cover an extent once, and nothing beyond it."""

from hypothesis import given
from hypothesis import strategies as st

from mest_compiler.schedules.emit import Part, blocks, split, tile_shape

sizes = st.integers(1, 200)


def covered(parts: list[Part]) -> list[int]:
    """Every index, in order, as often as a loop over the parts meets it."""
    return [part.start + k * part.size + i for part in parts for k in range(part.count) for i in range(part.size)]


@given(sizes, sizes)
def test_split_covers_once_and_evenly(extent: int, most: int) -> None:
    parts = split(extent, most)
    assert covered(parts) == list(range(extent))
    found = [part.size for part in parts]
    assert max(found) <= most and max(found) - min(found) <= 1
    assert sum(part.count for part in parts) == -(-extent // most)


@given(sizes, sizes)
def test_blocks_cover_once_with_one_rest(extent: int, size: int) -> None:
    parts = blocks(extent, size)
    assert covered(parts) == list(range(extent))
    assert all(part.size == size for part in parts[:-1]) and parts[-1].size <= size


@given(sizes, sizes, sizes)
def test_tile_holds_at_most_the_pixels_asked_for(rows: int, cols: int, pixels: int) -> None:
    r, c = tile_shape(rows, cols, pixels)
    assert 1 <= r <= rows and c >= 1 and r * c <= pixels


def test_a_tile_is_square_where_a_kernel_reads_around_it_and_long_where_none_does() -> None:
    assert tile_shape(16, 16, 16) == (1, 16)
    assert tile_shape(16, 16, 16, (3, 3)) == (4, 4)
    assert tile_shape(16, 16, 16, (1, 3)) == (1, 16)


@given(sizes, sizes, sizes, st.tuples(st.integers(1, 7), st.integers(1, 7)))
def test_what_a_kernel_reads_around_a_tile_does_not_change_how_many_tiles_there_are(
    rows: int, cols: int, pixels: int, reach: tuple[int, int]
) -> None:
    def tiles(shape: tuple[int, int]) -> int:
        return -(-rows // shape[0]) * -(-cols // shape[1])

    found = tile_shape(rows, cols, pixels, reach)
    assert found[0] * found[1] <= pixels
    assert tiles(found) == tiles(tile_shape(rows, cols, pixels))
