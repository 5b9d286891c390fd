"""Pooling with a mask: what is not padding counts as the whole map."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_panoptic.layers.pooling import (
    all_padding,
    average_parts,
    enlarge,
    extents,
    maxima,
    spread_parts,
)

from .test_self_attention import make_feats, make_mask

boxes = st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(1, 9)] * 2, *[st.integers(0, 4)] * 2)


def place(feats, top, left, bottom, right, filling=7.0):
    """Return a map with something around it, and the mask that says so."""
    height, width = feats.shape[2:]
    size = top + height + bottom, left + width + right
    padded = feats.new_full((*feats.shape[:2], *size), filling)
    mask = torch.ones(len(feats), *size, dtype=torch.bool)
    inside = ..., slice(top, top + height), slice(left, left + width)
    padded[inside], mask[inside] = feats, False
    return padded, mask, inside


@settings(deadline=None, max_examples=40)
@given(box=boxes, bins=st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_a_rectangle_is_pooled_and_enlarged_like_a_map_of_its_own(box, bins):
    top, left, height, width, bottom, right = box
    feats = make_feats((height, width), channels=2)
    padded, mask, inside = place(feats, top, left, bottom, right)
    found = average_parts(padded, bins, mask)
    for b, parts, alone in zip(bins, found, average_parts(feats, bins), strict=True):
        assert parts.shape == (2, 2, b, b)
        torch.testing.assert_close(parts, alone, rtol=0, atol=1e-12)
        large = spread_parts(parts, tuple(mask.shape[1:]), mask)
        assert large.shape == padded.shape
        expected = spread_parts(alone, (height, width))
        torch.testing.assert_close(large[inside], expected, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(box=boxes, scale=st.integers(1, 4))
def test_maxima_and_what_is_made_of_them_ignore_padding(box, scale):
    *_, height, width, bottom, right = box
    feats = make_feats((height, width), channels=2)
    padded, mask, inside = place(feats, 0, 0, bottom, right)
    small, alone = maxima(padded, mask, scale), maxima(feats, scale=scale)
    cells = ..., slice(alone.shape[2]), slice(alone.shape[3])
    assert torch.equal(small[cells], alone)
    unseen = all_padding(mask, scale)
    assert not unseen[cells].any()
    assert unseen.sum() == 2 * (unseen[0].numel() - alone[0, 0].numel())
    assert small.masked_select(unseen.unsqueeze(1)).count_nonzero() == 0
    large = enlarge(small + 3, tuple(mask.shape[1:]), mask, scale)
    assert large.shape == padded.shape
    expected = enlarge(alone + 3, (height, width), scale=scale)
    torch.testing.assert_close(large[inside], expected, rtol=0, atol=1e-12)


def test_maxima_of_two_by_two_are_enlarged_bilinearly():
    feats = torch.tensor([[[[1.0, 5.0, 2.0], [0.0, 3.0, -1.0]]]])
    small = maxima(feats)
    assert small.tolist() == [[[[5.0, 2.0]]]]
    # Between the centers at 0.5 and 2.5.
    assert enlarge(small, (2, 3)).tolist() == [[[[5.0, 4.25, 2.75]] * 2]]
    mask = torch.tensor([[[False, True, True], [False, True, False]]])
    assert maxima(feats, mask).tolist() == [[[[1.0, -1.0]]]]
    assert all_padding(mask).tolist() == [[[False, False]]]


def test_extents_of_each_image():
    mask = make_mask((4, 6), (2, 5), (4, 6), (0, 0))
    mask[1, 0] = mask[1, :, :2] = mask[1, 2, 3] = True
    (top, height), (left, width) = extents(mask)
    assert top.tolist() == [[0], [1], [0]]
    assert height.tolist() == [[2], [3], [4]]
    assert left.tolist() == [[0], [2], [0]]
    assert width.tolist() == [[5], [4], [6]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_average_of_many_large_numbers_does_not_overflow(dtype):
    feats = torch.full((1, 1, 60, 60), 6e4, dtype=dtype)
    mask = make_mask((60, 60), (50, 40))
    for parts in average_parts(feats, (1, 2, 3, 6), mask):
        assert parts.dtype == dtype
        torch.testing.assert_close(parts, feats[:, :, : parts.shape[2], : parts.shape[3]])


def test_what_is_all_padding_gives_zeros_and_finite_gradients():
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, :2, :2] = mask[1] = True
    feats = make_feats((4, 4), channels=1).requires_grad_()
    (parts,) = average_parts(feats, (2,), mask)
    assert parts[0, 0, 0, 0] == 0
    assert parts[0].count_nonzero() == 3
    assert parts[1].count_nonzero() == 0
    small = maxima(feats, mask)
    assert small[0, 0, 0, 0] == 0
    large = enlarge(small, (4, 4), mask)
    assert large[1].count_nonzero() == 0
    (parts.sum() + large.sum()).backward()
    assert feats.grad.isfinite().all()
    assert feats.grad[mask.unsqueeze(1)].count_nonzero() == 0
