"""Groups of positions: each rearrangement against its inverse and against eq. 7 and 8."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_panoptic.layers.partition import (
    crop,
    deinterlace,
    divide,
    exchange,
    interlace,
    merge,
    pad,
    padding_to_multiple,
)

LENGTHS = st.integers(1, 20)
PARTITIONS = st.tuples(st.integers(1, 24), st.integers(1, 24))
quickly = settings(max_examples=50, deadline=None)


def coordinates(size, batch=1):
    """Return a map whose features are its positions: image, row, column."""
    axes = torch.meshgrid(*map(torch.arange, (batch, *size)), indexing="ij")
    return torch.stack(axes, dim=1)


def padded(height, width, partitions, batch=2):
    """Return coordinates on a map whose size is a multiple of the partitions."""
    rows, columns = partitions
    return coordinates((-(-height // rows) * rows, -(-width // columns) * columns), batch)


@quickly
@given(height=LENGTHS, width=LENGTHS, partitions=PARTITIONS, batch=st.integers(1, 3))
def test_rearrangements_are_undone(height, width, partitions, batch):
    feats = padded(height, width, partitions, batch)
    size = tuple(feats.shape[2:])
    assert torch.equal(deinterlace(interlace(feats, partitions), size, partitions), feats)
    assert torch.equal(merge(divide(feats, partitions), size, partitions), feats)


@quickly
@given(height=LENGTHS, width=LENGTHS, partitions=PARTITIONS, batch=st.integers(1, 3))
def test_exchange_goes_from_stage_to_stage(height, width, partitions, batch):
    feats = padded(height, width, partitions, batch)
    interlaced, divided = interlace(feats, partitions), divide(feats, partitions)
    assert torch.equal(exchange(interlaced, len(interlaced) // batch), divided)
    assert torch.equal(exchange(divided, len(divided) // batch), interlaced)


@quickly
@given(height=LENGTHS, width=LENGTHS, partitions=PARTITIONS)
def test_groups_have_equal_remainders_or_quotients(height, width, partitions):
    feats = padded(height, width, partitions)
    size, parts = torch.tensor(feats.shape[2:]), torch.tensor(partitions)
    quotients = size // parts

    groups = interlace(feats, partitions)
    assert groups.shape == (2 * parts.prod(), quotients.prod(), 3)
    # Row-major: groups by image and remainder, the positions of a group by their quotient.
    image, here = groups[..., :1], groups[..., 1:]
    expected = coordinates(partitions, batch=2).permute(0, 2, 3, 1).flatten(0, 2).unsqueeze(1)
    assert torch.equal(torch.cat([image, here % parts], dim=2), expected.expand_as(groups))
    expected = coordinates(quotients.tolist())[0, 1:].flatten(1).t()
    assert torch.equal(here // parts, expected.expand_as(here))

    windows = divide(feats, partitions)
    assert windows.shape == (2 * quotients.prod(), parts.prod(), 3)
    image, here = windows[..., :1], windows[..., 1:]
    expected = coordinates(quotients.tolist(), batch=2).permute(0, 2, 3, 1).flatten(0, 2)
    expected = expected.unsqueeze(1).expand_as(windows)
    assert torch.equal(torch.cat([image, here // parts], dim=2), expected)
    expected = coordinates(partitions)[0, 1:].flatten(1).t()
    assert torch.equal(here % parts, expected.expand_as(here))


def test_groups_of_the_papers_example():
    # Fig. 12: a to p on 4x4, two partitions.
    letters = torch.arange(16).view(1, 1, 4, 4)

    def spell(groups):
        return ["".join("abcdefghijklmnop"[i] for i in group) for group in groups[..., 0].tolist()]

    assert spell(interlace(letters, (2, 2))) == ["acik", "bdjl", "egmo", "fhnp"]
    assert spell(divide(letters, (2, 2))) == ["abef", "cdgh", "ijmn", "klop"]


@quickly
@given(height=LENGTHS, width=LENGTHS, partitions=PARTITIONS, both_sides=st.booleans())
def test_padding_is_the_least_and_is_cropped_again(height, width, partitions, both_sides):
    feats = coordinates((height, width)) + 1
    padding = padding_to_multiple((height, width), partitions, both_sides=both_sides)
    out = pad(feats, padding)
    left, right, top, bottom = padding
    assert out.shape[2:] == (height + top + bottom, width + left + right)
    assert out.shape[2] % partitions[0] == 0
    assert out.shape[3] % partitions[1] == 0
    assert 0 <= top + bottom < partitions[0]
    assert 0 <= left + right < partitions[1]
    assert torch.equal(crop(out, padding), feats)
    # Features are from 1, so all else is zero.
    assert out[:, 2].count_nonzero() == height * width
    if both_sides:
        assert bottom - top in (0, 1)
        assert right - left in (0, 1)
    else:
        assert (left, top) == (0, 0)


def test_padding_of_a_map():
    assert padding_to_multiple((7, 13), (8, 4)) == (0, 3, 0, 1)
    assert padding_to_multiple((7, 13), (8, 4), both_sides=True) == (1, 2, 0, 1)
    assert padding_to_multiple((8, 12), (8, 4)) == (0, 0, 0, 0)
    mask = torch.zeros(1, 2, 1, dtype=torch.bool)
    expected = [[False, True, True], [False, True, True], [True, True, True]]
    assert pad(mask, (0, 2, 0, 1), True).tolist() == [expected]
    assert pad(torch.ones(1, 1), (1, 0, 0, 0), 5.0).tolist() == [[5, 1]]


@pytest.mark.parametrize("partitions", [(0, 8), (8, 0), (-2, 8)])
def test_partitions_below_one_are_named(partitions):
    with pytest.raises(ValueError, match=re.escape(f"partitions are {partitions}, expected two")):
        padding_to_multiple((4, 4), partitions)
