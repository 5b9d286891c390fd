"""Short trainings side by side: how fast they were, and what came out."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ocr_panoptic.errors import InputError
from ocr_panoptic.visualization.curves import read_metrics

__all__ = ["format_runs", "read_run"]

_METRICS = ("PQ", "PQ_th", "PQ_st", "box_AP", "mask_AP", "mIoU")


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a run of ``tools/train_net.py`` says of itself.

    Args:
        folder: its OUTPUT_DIR.

    Returns:
        ``name`` of the folder, ``iterations``, ``seconds_per_iteration`` (the median of what was
        logged; None for a few iterations, of which Detectron2 logs no time), and the headline
        metrics of its evaluation.

    Raises:
        InputError: it holds no training that was evaluated; names what is missing.
    """
    log = folder / "metrics.json"
    if not log.is_file():
        raise InputError(f"{log} does not exist, expected the metrics of a training")
    # A run that was killed may have left half a line, and done iterations again.
    rows = read_metrics(log)
    # What an evaluation at the end logs, it logs as of one iteration more.
    rows = [row for row in rows if "total_loss" in row]
    times = [row["time"] for row in rows if "time" in row]
    evaluated = sorted(folder.glob("inference/*/metrics.json"))
    if not rows or not evaluated:
        raise InputError(f"{folder} holds no training that was evaluated, expected one")
    return {
        "name": folder.name,
        "iterations": max(row["iteration"] for row in rows) + 1,
        "seconds_per_iteration": statistics.median(times) if times else None,
        **json.loads(evaluated[0].read_text(encoding="utf-8")),
    }


def format_runs(runs: Sequence[dict[str, Any]]) -> str:
    """Return a markdown table with a row for each of :func:`read_run`."""
    table = [
        {
            "run": run["name"],
            "iterations": run["iterations"],
            "a second": f"{1 / seconds:.2f}"
            if (seconds := run["seconds_per_iteration"])
            else "n/a",
            **{key: f"{run[key]:.1f}" if key in run else "n/a" for key in _METRICS},
        }
        for run in runs
    ]
    return tabulate(table, headers="keys", tablefmt="github", disable_numparse=True)
