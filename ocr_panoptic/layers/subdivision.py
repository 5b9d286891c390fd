"""Parts of a map as maps of their own.

Yuan et al.: "OCNet: Object Context for Semantic Segmentation" (IJCV), appendix H, eq. 27 and 28,
and appendix B, eq. 22.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .pooling import extents

__all__ = ["Subdivision"]


class Subdivision:
    """Divides maps of one size into k x k parts, and puts them together again.

    Rows (and columns) j of L belong to part floor(j k / L) of eq. 22, counted from 0: every
    position is in one part, and sizes of parts differ by at most one. A smaller part goes on to
    the right and below, as padding, to the size of the largest, with what is next to it in
    the map: where the parts' padding joins the statistics of a norm it changes little. A map of
    fewer than k rows or columns has parts of padding only.

    With a mask each image is divided as if the smallest rectangle around its valid positions were
    all of it.

    Attributes:
        padding_mask: (N * k * k, h, w) bool, True where a position of a part is padding; None
            where there is none.
    """

    def __init__(self, like: Tensor, parts: int, padding_mask: Tensor | None = None) -> None:
        """Find the parts.

        Args:
            like: (N, C, H, W), a map of the size to divide.
            parts: k.
            padding_mask: (N, H, W) bool, True where a position is padding.
        """
        size = like.shape[2:]
        self.parts = parts
        self.padding_mask = None
        self.fits = padding_mask is None and all(length % parts == 0 for length in size)
        self.steps = [-(-length // parts) for length in size]
        if self.fits:
            return
        if padding_mask is None:
            whole = [like.new_full((1, 1), length, dtype=torch.int64) for length in size]
            found = [(torch.zeros_like(length), length) for length in whole]
        else:
            found = extents(padding_mask)
        axes = [_Axis(*extent, parts, length) for extent, length in zip(found, size, strict=True)]
        self.sources = [axis.sources for axis in axes]
        self.targets = [axis.targets for axis in axes]
        rows, columns = (axis.inside for axis in axes)
        inside = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
        inside = inside.expand(len(like), -1, -1, -1)
        if padding_mask is not None:
            inside = inside & _pick(~padding_mask.unsqueeze(1), self.sources)
        self.padding_mask = ~self._cut(inside).squeeze(1)

    def split(self, feats: Tensor) -> Tensor:
        """Return the parts (N * k * k, C, h, w) of a map (N, C, H, W), row by row."""
        return self._cut(feats if self.fits else _pick(feats, self.sources))

    def join(self, feats: Tensor) -> Tensor:
        """Return the map (N, C, H, W) of parts (N * k * k, C, h, w)."""
        feats = feats.unflatten(0, (-1, self.parts, self.parts))
        feats = feats.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        return feats if self.fits else _pick(feats, self.targets)

    def _cut(self, feats: Tensor) -> Tensor:
        feats = feats.unflatten(2, (self.parts, self.steps[0]))
        feats = feats.unflatten(4, (self.parts, self.steps[1]))
        return feats.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


class _Axis:
    """Where rows, or columns, of the map are in its parts side by side, and the reverse.

    Attributes:
        sources: (N, k * h), the row of the map for each row of the parts.
        inside: (N, k * h) bool, which of them belong to their part.
        targets: (N, H), the row of the parts for each row of the map; any for padding.
    """

    def __init__(self, start: Tensor, length: Tensor, parts: int, size: int) -> None:
        """Take the first row and the number of rows, each (N, 1), of the map's size."""
        step = -(-size // parts)
        part = torch.arange(parts, device=start.device)
        begin = (part * length + parts - 1) // parts
        count = ((part + 1) * length + parts - 1) // parts - begin
        offset = torch.arange(step, device=start.device)
        inside = offset < count.unsqueeze(2)
        source = torch.minimum(begin.unsqueeze(2) + offset, (length - 1).unsqueeze(2))
        self.sources = (start.unsqueeze(2) + source).flatten(1)
        self.inside = inside.flatten(1)
        position = torch.arange(size, device=start.device) - start
        position = torch.minimum(position.clamp(min=0), length - 1)
        part = position * parts // length
        self.targets = part * step + position - begin.gather(1, part)


def _pick(feats: Tensor, indices: list[Tensor]) -> Tensor:
    """Return those rows and columns of (N, C, H, W) that (N or 1, H') and (N or 1, W') name."""
    rows, columns = indices
    shape = list(feats.shape)
    shape[2] = rows.shape[1]
    feats = feats.gather(2, rows[:, None, :, None].expand(shape[0], shape[1], -1, shape[3]))
    return feats.gather(3, columns[:, None, None, :].expand(*shape[:3], -1))
