"""One flat record of a run's metrics, from Detectron2's nested results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from tabulate import tabulate

from ocr_panoptic.files import write_text

__all__ = ["METRICS", "format_metrics", "summarise", "write_metrics"]

METRICS: dict[str, tuple[str, str]] = {
    **{
        name: ("panoptic_seg", name)
        for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")
    },
    "box_AP": ("bbox", "AP"),
    "mask_AP": ("segm", "AP"),
    "mIoU": ("sem_seg", "mIoU"),
}
"""Our name -> task and key in Detectron2's results."""

# Without it tabulate prints 0.0 as 0.
_AS_WRITTEN = {"stralign": "right", "disable_numparse": True}


def summarise(results: Mapping[str, Mapping[str, float]], dtype: str) -> dict[str, str | float]:
    """Return the headline metrics of one data set.

    Args:
        results: Detectron2's: task -> metric -> percent.
        dtype: in which the model was evaluated, for example "float32".

    Returns:
        ``dtype`` and those of :data:`METRICS` that apply, in percent; a metric that could not be
        computed (NaN) is left out.
    """
    summary: dict[str, str | float] = {"dtype": dtype}
    for name, (task, key) in METRICS.items():
        value = results.get(task, {}).get(key)
        if value is not None and math.isfinite(value):
            # numpy scalars do not survive json.
            summary[name] = float(value)
    return summary


def write_metrics(path: Path, summary: Mapping[str, str | float]) -> None:
    """Write a summary as json; it appears whole or not at all."""
    write_text(path, json.dumps(summary, indent=2) + "\n")


def format_metrics(summary: Mapping[str, str | float]) -> str:
    """Return a summary as the tables that papers print: panoptic, then AP and mIoU.

    A metric that does not apply is shown as "n/a".
    """

    def cell(name: str) -> str:
        return f"{summary[name]:.1f}" if name in summary else "n/a"

    rows = [
        (label, *(cell(metric + suffix) for metric in ("PQ", "SQ", "RQ")))
        for label, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st"))
    ]
    panoptic = tabulate(rows, headers=("", "PQ", "SQ", "RQ"), **_AS_WRITTEN)
    others = tabulate(
        [[cell(name) for name in ("box_AP", "mask_AP", "mIoU")]],
        headers=("box AP", "mask AP", "mIoU"),
        **_AS_WRITTEN,
    )
    return f"{panoptic}\n\n{others}"
