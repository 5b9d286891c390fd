"""What a map of segment ids holds: each id with its area and box, in one pass over runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["SegmentMap", "measure_segments"]


@dataclass(frozen=True)
class SegmentMap:
    """The ids of an (H, W) map, in order.

    Attributes:
        shape: H and W.
        ids: (N,) the distinct ids.
        areas: (N,) int64 pixels of each.
        boxes: (N, 4) int64 x, y, width and height of each.
        run_segments: (R,) int64 position in ``ids`` of each run of equal pixels within a row.
        run_lengths: (R,) int64 pixels of each run.
    """

    shape: tuple[int, int]
    ids: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    run_segments: np.ndarray
    run_lengths: np.ndarray

    def paint(self, values: np.ndarray) -> np.ndarray:
        """Return (H, W) ``values`` of the segments, (N,), at the pixels of the segments."""
        return np.repeat(values[self.run_segments], self.run_lengths).reshape(self.shape)


def measure_segments(id_map: np.ndarray) -> SegmentMap:
    """Measure the segments of an (H, W) map of ids, both sides 1 or more.

    A panoptic map has a few thousand runs in its hundred thousands of pixels, so sorting runs takes
    a fiftieth of the time that ``np.unique`` takes for sorting pixels.
    """
    height, width = id_map.shape
    is_start = np.empty((height, width), bool)
    is_start[:, 0] = True
    np.not_equal(id_map[:, 1:], id_map[:, :-1], out=is_start[:, 1:])
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=id_map.size)
    rows, columns = np.divmod(starts, width)
    run_ids = id_map.ravel()[starts]
    # Stable: the runs of a segment stay in the order of their rows.
    order = np.argsort(run_ids, kind="stable")
    sorted_ids = run_ids[order]
    is_first = np.empty(len(order), bool)
    is_first[0] = True
    np.not_equal(sorted_ids[1:], sorted_ids[:-1], out=is_first[1:])
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(order)) - 1
    lengths_of, left_of = lengths[order], columns[order]
    left, top = np.minimum.reduceat(left_of, first), rows[order[first]]
    right = np.maximum.reduceat(left_of + lengths_of, first)
    bottom = rows[order[last]] + 1
    run_segments = np.empty(len(order), np.int64)
    run_segments[order] = np.cumsum(is_first) - 1
    return SegmentMap(
        shape=(height, width),
        ids=sorted_ids[first],
        areas=np.add.reduceat(lengths_of, first),
        boxes=np.stack([left, top, right - left, bottom - top], axis=1),
        run_segments=run_segments,
        run_lengths=lengths,
    )
