"""Segments of a map against a loop over its ids."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ocr_panoptic.data.segments import measure_segments

ID_MAPS = arrays(
    np.int32,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 1, 2, 70000, 256**3 - 1]),
)


@given(id_map=ID_MAPS)
@settings(max_examples=100, deadline=None)
def test_segments_equal_a_loop(id_map):
    found = measure_segments(id_map)
    assert np.array_equal(found.ids, np.unique(id_map))
    for segment_id, area, box in zip(found.ids, found.areas, found.boxes, strict=True):
        ys, xs = np.nonzero(id_map == segment_id)
        assert area == len(ys)
        left, top = xs.min(), ys.min()
        assert box.tolist() == [left, top, xs.max() - left + 1, ys.max() - top + 1]
    assert np.array_equal(found.paint(found.ids), id_map)


def test_a_map_that_is_not_contiguous():
    id_map = np.arange(60).reshape(6, 10).T[:, ::-1] // 7
    found = measure_segments(id_map)
    assert np.array_equal(found.paint(found.ids), id_map)
    assert found.areas.sum() == 60
