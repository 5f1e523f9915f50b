import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slidemill.tiles.grid import exact_grid, tile_geometry
from slidemill.tiles.order import reading_order

GEOMETRY = tile_geometry(256, 0.5, 0, 0.2519, 0.2483)


@given(
    st.lists(st.tuples(st.integers(0, 90_000), st.integers(0, 90_000)), max_size=60),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_every_tile_is_read_once(corners, across, down):
    coords = np.array(corners, np.int64).reshape(-1, 2)
    order, starts = reading_order(coords, GEOMETRY, across, down)
    assert sorted(order.tolist()) == list(range(len(coords)))
    assert starts.tolist() == sorted(set(starts.tolist()))
    for block in np.split(order, starts[1:]) if len(order) else []:
        spread = np.ptp(coords[block], axis=0)
        assert spread[0] < across * GEOMETRY.step_x
        assert spread[1] < down * GEOMETRY.step_y


def test_blocks_follow_each_other_and_tiles_are_row_major_in_them():
    geometry = tile_geometry(10, 1.0, 0, 1.0, 1.0)
    coords = exact_grid(geometry, 60, 40)[::-1]
    order, starts = reading_order(coords, geometry, 3, 2)
    assert starts.tolist() == [0, 6, 12, 18]
    first = [(0, 0), (10, 0), (20, 0), (0, 10), (10, 10), (20, 10)]
    assert [tuple(c) for c in coords[order[:6]].tolist()] == first
    assert coords[order[6]].tolist() == [30, 0]
    assert coords[order[12]].tolist() == [0, 20]
