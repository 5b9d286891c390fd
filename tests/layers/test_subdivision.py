"""Maps divided into parts, and put together again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_panoptic.layers.subdivision import Subdivision

from ..reference.multi_scale import parts_of
from .test_self_attention import make_feats, make_mask


def numbered(*size):
    """Return a map whose positions have numbers of their own."""
    count = torch.Size(size).numel()
    return torch.arange(count, dtype=torch.float64).view(*size)


def masks(size):
    whole = torch.zeros(2, *size, dtype=torch.bool)
    anywhere = torch.zeros(2, *size, dtype=torch.bool)
    anywhere[0, : size[0] // 3] = anywhere[1, :, size[1] // 2 :] = True
    anywhere[1, 0, 0] = True
    return [None, whole, make_mask(size, size, (size[0] // 2, size[1] // 3)), anywhere]


@settings(deadline=None, max_examples=30)
@given(size=st.tuples(st.integers(1, 12), st.integers(1, 12)), parts=st.integers(1, 7))
def test_parts_are_those_of_the_equations(size, parts):
    feats = numbered(2, 1, *size)
    for mask in masks(size):
        division = Subdivision(feats, parts, mask)
        found = division.split(feats)
        inside = torch.ones_like(found, dtype=torch.bool).squeeze(1)
        if division.padding_mask is not None:
            inside = ~division.padding_mask
        assert inside.shape == found[:, 0].shape
        assert len(found) == 2 * parts**2
        found = found.squeeze(1).unflatten(0, (2, -1))
        for n, pixels in enumerate(feats[:, 0]):
            image = {
                (r, c): None
                for r in range(size[0])
                for c in range(size[1])
                if mask is None or not mask[n, r, c]
            }
            expected = sorted(
                sorted(pixels[place].item() for place in part)
                for part in (parts_of(image, parts) if image else ())
            )
            held = [
                sorted(part[within].tolist())
                for part, within in zip(found[n], inside.unflatten(0, (2, -1))[n], strict=True)
            ]
            assert sorted(part for part in held if part) == expected


@settings(deadline=None, max_examples=30)
@given(size=st.tuples(st.integers(1, 12), st.integers(1, 12)), parts=st.integers(1, 7))
def test_joining_undoes_splitting(size, parts):
    feats = make_feats(size, channels=3)
    for mask in masks(size):
        division = Subdivision(feats, parts, mask)
        valid = torch.ones(2, *size, dtype=torch.bool) if mask is None else ~mask
        back = division.join(division.split(feats))
        assert back.shape == feats.shape
        assert torch.equal(back * valid.unsqueeze(1), feats * valid.unsqueeze(1))
        # What the parts' padding has goes nowhere.
        if division.padding_mask is not None:
            parts_map = division.split(feats)
            parts_map = parts_map.masked_fill(division.padding_mask.unsqueeze(1), 1e6)
            back = division.join(parts_map)
            assert torch.equal(back * valid.unsqueeze(1), feats * valid.unsqueeze(1))


def test_parts_keep_rows_and_columns_in_order():
    feats = numbered(1, 1, 5, 4)
    division = Subdivision(feats, 2)
    # Eq. 22: rows 0, 1, 2 of 5 have the quotient 0; a smaller part goes on with the map's rows.
    assert division.split(feats).squeeze(1).tolist() == [
        [[0, 1], [4, 5], [8, 9]],
        [[2, 3], [6, 7], [10, 11]],
        [[12, 13], [16, 17], [16, 17]],
        [[14, 15], [18, 19], [18, 19]],
    ]
    assert (
        division.padding_mask.flatten(1).tolist()
        == [[False] * 6] * 2 + [[False] * 4 + [True] * 2] * 2
    )

    rows = Subdivision(numbered(1, 1, 7, 1), 3).split(numbered(1, 1, 7, 1))
    assert rows[::3].flatten(1).tolist() == [[0, 1, 2], [3, 4, 5], [5, 6, 6]]


def test_parts_of_equal_size_have_no_padding():
    feats = make_feats((12, 6))
    assert Subdivision(feats, 3).padding_mask is None
    assert Subdivision(feats, 6).split(feats).shape == (72, 4, 2, 1)
    assert Subdivision(feats, 5).padding_mask is not None


@pytest.mark.parametrize("parts", [2, 3])
def test_gradients_arrive_once(parts):
    feats = make_feats((4, 5)).requires_grad_()
    mask = make_mask((4, 5), (4, 5), (3, 2))
    division = Subdivision(feats, parts, mask)
    (2 * division.join(division.split(feats)) * ~mask.unsqueeze(1)).sum().backward()
    assert torch.equal(feats.grad, 2.0 * ~mask.unsqueeze(1).expand_as(feats))
