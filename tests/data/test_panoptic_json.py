"""Panoptic PNGs, written and read again; the checks of the json are in test_coco_panoptic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from panopticapi.utils import rgb2id
from PIL import Image

from ocr_panoptic.data.panoptic_json import read_panoptic_png, write_panoptic_png

SEGMENT_IDS = arrays(
    np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 256**3 - 1)
)


@given(segment_ids=SEGMENT_IDS)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, segment_ids):
    path = tmp_path_factory.mktemp("png") / "folder" / "0.png"
    write_panoptic_png(path, segment_ids)
    assert np.array_equal(read_panoptic_png(path), segment_ids)
    # As panopticapi reads it.
    with Image.open(path) as image:
        assert np.array_equal(rgb2id(np.asarray(image)), segment_ids)


@pytest.mark.parametrize("segment_id", [-1, 256**3])
def test_an_id_that_does_not_fit_is_refused(tmp_path, segment_id):
    with pytest.raises(ValueError, match="segment ids must be 0 to 16777215"):
        write_panoptic_png(tmp_path / "0.png", np.array([[segment_id]]))
    assert not list(tmp_path.iterdir())


def test_channels_reversed_in_memory_are_written_too(tmp_path):
    segment_ids = np.arange(24).reshape(4, 6).T[:, ::-1]
    write_panoptic_png(tmp_path / "0.png", segment_ids)
    assert np.array_equal(read_panoptic_png(tmp_path / "0.png"), segment_ids)
