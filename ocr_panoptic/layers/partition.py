"""Interlaced and local groups of a feature map: pure functions, each undone by its partner.

Yuan et al.: "OCNet: Object Context for Semantic Segmentation" (IJCV), sec. 3.2, Fig. 2 and
Algorithm 1, called "the paper" below. With partitions (P_h, P_w) and a map of
(P_h * Q_h, P_w * Q_w) positions:

- the global stage has P_h * P_w groups: the Q_h * Q_w positions whose row has the same remainder
  by P_h and whose column has the same by P_w (eq. 7): :func:`interlace`, :func:`deinterlace`;
- the local stage has Q_h * Q_w groups: windows of P_h x P_w positions, with the same quotients
  (eq. 8): :func:`divide`, :func:`merge`.

A map of another size is padded to a multiple first.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "crop",
    "deinterlace",
    "divide",
    "exchange",
    "interlace",
    "merge",
    "pad",
    "padding_to_multiple",
]


def padding_to_multiple(
    size: tuple[int, int], partitions: tuple[int, int], *, both_sides: bool = False
) -> tuple[int, int, int, int]:
    """Return how many positions make a map's height and width multiples of the partitions.

    Args:
        size: (height, width), each at least 1.
        partitions: (P_h, P_w), each at least 1; may be larger than the map.
        both_sides: pad half to the left and top, rounded down, as the authors' code does. By
            default all goes to the right and bottom, so that the grid of groups, seen from the
            image, does not move when a batch pads the map.

    Returns:
        (left, right, top, bottom), as :func:`torch.nn.functional.pad` takes them.

    Raises:
        ValueError: if a partition is below 1.
    """
    if min(partitions) < 1:
        raise ValueError(f"partitions are {tuple(partitions)}, expected two integers from 1")
    rows, columns = (-length % parts for length, parts in zip(size, partitions, strict=True))
    top, left = (rows // 2, columns // 2) if both_sides else (0, 0)
    return left, columns - left, top, rows - top


def pad(feats: Tensor, padding: tuple[int, int, int, int], value: float = 0) -> Tensor:
    """Pad the last two dimensions of (..., H, W) with ``value``; False or True for a mask."""
    return F.pad(feats, padding, value=value) if any(padding) else feats


def crop(feats: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Undo :func:`pad`: a view of (..., H', W') without ``padding``."""
    left, right, top, bottom = padding
    return feats[..., top : feats.shape[-2] - bottom, left : feats.shape[-1] - right]


def interlace(feats: Tensor, partitions: tuple[int, int]) -> Tensor:
    """Gather the groups of the global stage (eq. 12, 13; Algorithm 1, lines 9 to 11).

    Args:
        feats: (N, C, H, W), H and W multiples of the partitions.
        partitions: (P_h, P_w).

    Returns:
        (N * P_h * P_w, Q_h * Q_w, C): groups in row-major order of their remainders, each with
        its positions in row-major order.
    """
    return _blocks(feats, partitions).permute(0, 3, 5, 2, 4, 1).flatten(3, 4).flatten(0, 2)


def deinterlace(tokens: Tensor, size: tuple[int, int], partitions: tuple[int, int]) -> Tensor:
    """Undo :func:`interlace` (eq. 17, 18).

    Args:
        tokens: (N * P_h * P_w, Q_h * Q_w, C).
        size: (H, W) of the map, multiples of the partitions.
        partitions: (P_h, P_w).

    Returns:
        (N, C, H, W).
    """
    (height, width), (rows, columns) = size, partitions
    blocks = tokens.view(
        -1, rows, columns, height // rows, width // columns, tokens.shape[2]
    ).permute(0, 3, 1, 4, 2, 5)
    return blocks.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def divide(feats: Tensor, partitions: tuple[int, int]) -> Tensor:
    """Gather the windows of the local stage (eq. 19; Algorithm 1, lines 15 to 17).

    Args:
        feats: (N, C, H, W), H and W multiples of the partitions.
        partitions: (P_h, P_w).

    Returns:
        (N * Q_h * Q_w, P_h * P_w, C): windows in row-major order, each with its positions in
        row-major order.
    """
    return _blocks(feats, partitions).permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def merge(tokens: Tensor, size: tuple[int, int], partitions: tuple[int, int]) -> Tensor:
    """Undo :func:`divide` (eq. 21).

    Args:
        tokens: (N * Q_h * Q_w, P_h * P_w, C).
        size: (H, W) of the map, multiples of the partitions.
        partitions: (P_h, P_w).

    Returns:
        (N, C, H, W).
    """
    (height, width), (rows, columns) = size, partitions
    blocks = tokens.view(
        -1, height // rows, width // columns, rows, columns, tokens.shape[2]
    ).permute(0, 1, 3, 2, 4, 5)
    return blocks.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def exchange(tokens: Tensor, groups: int) -> Tensor:
    """Go from the groups of one stage to those of the other, without the map between (eq. 18).

    A position's place among the groups of one stage is its place inside its group of the other.

    Args:
        tokens: (N * groups, positions, C), from :func:`interlace` or :func:`divide`.
        groups: how many groups a map has.

    Returns:
        (N * positions, groups, C): what :func:`divide`, or :func:`interlace`, makes of the map.
    """
    return tokens.unflatten(0, (-1, groups)).transpose(1, 2).flatten(0, 1).contiguous()


def _blocks(feats: Tensor, partitions: tuple[int, int]) -> Tensor:
    """View (N, C, H, W) as (N, C, Q_h, P_h, Q_w, P_w)."""
    rows, columns = partitions
    return feats.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
