"""Pooling of those positions of a map that are no padding, and what undoes its loss of size.

Where a mask says what is padding, the smallest rectangle around the rest stands for the whole map.
So results do not depend on what padding holds, nor on how much there is of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["all_padding", "average_parts", "enlarge", "extents", "maxima", "spread_parts"]


def extents(padding_mask: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return where the smallest rectangle around the valid positions of each image is.

    Args:
        padding_mask: (N, H, W) bool, True where a position is padding.

    Returns:
        The first row and the number of rows, each (N, 1) int64; the same of columns. An image
        without a valid position is taken whole.
    """
    valid = ~padding_mask
    return _extent(valid.any(dim=2)), _extent(valid.any(dim=1))


def average_parts(
    feats: Tensor, bins: Sequence[int], padding_mask: Tensor | None = None
) -> list[Tensor]:
    """Average a map in b x b parts of nearly equal size, for each b.

    Part i of a length L goes from floor(i L / b) to ceil((i + 1) L / b), as in
    :func:`torch.nn.functional.adaptive_avg_pool2d`: parts overlap where L is no multiple of b.

    Args:
        feats: (N, C, H, W).
        bins: the b.
        padding_mask: (N, H, W) bool, True where a position is padding, which joins no average.

    Returns:
        (N, C, b, b) of each b; zeros where a part has no valid position.
    """
    if padding_mask is None:
        return [F.adaptive_avg_pool2d(feats, b) for b in bins]
    (top, height), (left, width) = extents(padding_mask)
    padding = padding_mask.unsqueeze(1)
    maps = feats.masked_fill(padding, 0), (~padding).to(feats.dtype)
    # The rows' parts of all scales in one product: the map is read once.
    in_rows = torch.cat([_in_parts(top, height, b, feats.shape[2]) for b in bins], dim=1)
    in_rows = in_rows.to(feats.dtype).unsqueeze(1)
    averages = []
    for b, parts, shares in zip(
        bins, *(torch.matmul(in_rows, part).split(list(bins), dim=2) for part in maps), strict=True
    ):
        in_columns = _in_parts(left, width, b, feats.shape[3]).to(feats.dtype).mT.unsqueeze(1)
        sums, share = torch.matmul(parts, in_columns), torch.matmul(shares, in_columns)
        averages.append(sums / share.masked_fill(share == 0, 1))
    return averages


def spread_parts(
    parts: Tensor, size: tuple[int, int], padding_mask: Tensor | None = None
) -> Tensor:
    """Enlarge parts to a map, bilinearly between their centers.

    Args:
        parts: (N, C, b, b).
        size: (H, W).
        padding_mask: (N, H, W) bool, as in :func:`average_parts`.

    Returns:
        (N, C, H, W); padding has what is next to it.
    """
    if padding_mask is None:
        return F.interpolate(parts, size=size, mode="bilinear", align_corners=False)
    (top, height), (left, width) = extents(padding_mask)
    in_rows = _between_parts(top, height, parts.shape[2], size[0]).to(parts.dtype)
    in_columns = _between_parts(left, width, parts.shape[3], size[1]).to(parts.dtype)
    return torch.matmul(torch.matmul(in_rows.mT.unsqueeze(1), parts), in_columns.unsqueeze(1))


def maxima(feats: Tensor, padding_mask: Tensor | None = None, scale: int = 2) -> Tensor:
    """Take the maxima of scale x scale valid positions; an odd last row or column is not dropped.

    Args:
        feats: (N, C, H, W).
        padding_mask: (N, H, W) bool, True where a position is padding.
        scale: positions along each axis.

    Returns:
        (N, C, ceil(H / scale), ceil(W / scale)); zeros where :func:`all_padding` says True.
    """
    if padding_mask is not None:
        # The lowest finite number, not -inf: keys that are all padding get no weight, but are
        # multiplied by it.
        lowest = torch.finfo(feats.dtype).min
        feats = feats.masked_fill(padding_mask.unsqueeze(1), lowest)
    largest = F.max_pool2d(feats, scale, ceil_mode=True)
    if padding_mask is not None:
        largest = largest.masked_fill(all_padding(padding_mask, scale).unsqueeze(1), 0)
    return largest


def all_padding(padding_mask: Tensor, scale: int = 2) -> Tensor:
    """Say of (N, H, W) which scale x scale positions are all padding, in the size of `maxima`."""
    valid = (~padding_mask).unsqueeze(1).float()
    return F.max_pool2d(valid, scale, ceil_mode=True).squeeze(1) == 0


def enlarge(
    feats: Tensor, size: tuple[int, int], padding_mask: Tensor | None = None, scale: int = 2
) -> Tensor:
    """Enlarge what comes of :func:`maxima` to the map's own size, bilinearly.

    Args:
        feats: (N, C, ceil(H / scale), ceil(W / scale)).
        size: (H, W).
        padding_mask: (N, H, W) bool, of the large map; cells that are all padding have no part.
        scale: as in :func:`maxima`.

    Returns:
        (N, C, H, W); zeros next to nothing but padding.
    """
    share = None
    if padding_mask is not None:
        valid = ~all_padding(padding_mask, scale).unsqueeze(1)
        share = _bilinear(valid.to(feats.dtype), scale)
        feats = feats * valid
    feats = _bilinear(feats, scale)
    if share is not None:
        feats = feats / share.masked_fill(share == 0, 1)
    return feats[:, :, : size[0], : size[1]]


def _bilinear(feats: Tensor, scale: int) -> Tensor:
    return F.interpolate(feats, scale_factor=scale, mode="bilinear", align_corners=False)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the start and the length, each (N, 1), of what is True in (N, L); or all of L."""
    # Every position is as good as any other where there is none.
    occupied = occupied | ~occupied.any(dim=1, keepdim=True)
    size = occupied.shape[1]
    index = torch.arange(size, device=occupied.device)
    start = torch.where(occupied, index, size).amin(dim=1, keepdim=True)
    end = torch.where(occupied, index + 1, 0).amax(dim=1, keepdim=True)
    return start, end - start


def _in_parts(start: Tensor, length: Tensor, parts: int, size: int) -> Tensor:
    """Return (N, parts, size), the weights of each part's positions on an axis, with sum 1."""
    part, position, length = _axis(start, length, parts, size)
    begin = part * length // parts
    end = ((part + 1) * length + parts - 1) // parts
    inside = ((position >= begin) & (position < end)).double()
    return inside / inside.sum(dim=2, keepdim=True)


def _between_parts(start: Tensor, length: Tensor, parts: int, size: int) -> Tensor:
    """Return (N, parts, size), the weight of each part at each position of an axis."""
    part, position, length = _axis(start, length, parts, size)
    center = ((position.double() + 0.5) * parts / length - 0.5).clamp(0, parts - 1)
    return (1 - (center - part).abs()).clamp(min=0)


def _axis(start: Tensor, length: Tensor, parts: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return parts (1, parts, 1), positions from the start (N, 1, size), and length (N, 1, 1)."""
    part = torch.arange(parts, device=start.device).view(1, -1, 1)
    position = torch.arange(size, device=start.device) - start
    return part, position.unsqueeze(1), length.unsqueeze(2)
