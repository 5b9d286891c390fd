"""Loss curves from the metrics that Detectron2 writes while it trains."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from ocr_panoptic.errors import InputError

__all__ = ["draw_loss_curves", "read_metrics"]

logger = logging.getLogger(__name__)

_TITLES = {
    "total_loss": "total",
    "loss_sem_seg": "semantic",
    "loss_sem_seg_region": "soft object regions",
    "loss_cls": "box class",
    "loss_box_reg": "box regression",
    "loss_mask": "mask",
    "loss_rpn_cls": "RPN objectness",
    "loss_rpn_loc": "RPN regression",
}
# Mid-tones that read on a white and on a black page.
_COLORS = (
    "#3b82c4",
    "#d9822b",
    "#2f9e6e",
    "#c94f7c",
    "#8b6fd6",
    "#a08a2c",
    "#2a9aa8",
    "#b0603a",
)
# Stands for the page's text colour, which an inline SVG inherits but matplotlib cannot name.
_TEXT = "#010203"
_LOG_SCALE_RATIO = 8.0


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the JSON-lines metrics of a run, such as ``metrics.json`` in its ``OUTPUT_DIR``.

    A run that resumed from an earlier checkpoint repeats iterations; what the interrupted run
    wrote from there on is dropped, so that the result is one history. Lines cut short by a kill
    are left out with a warning, and lines without an iteration silently.

    Args:
        path: A file as Detectron2's ``JSONWriter`` writes it, one JSON object per line.

    Returns:
        One dict for each iteration, in the order of ``iteration``.

    Raises:
        InputError: If the file cannot be read or no line in it is a JSON object.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be read ({error.strerror})") from error
    history: list[dict[str, Any]] = []
    readable = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            logger.warning("%s, line %d: not a JSON object, left out", os.fspath(path), number)
            continue
        readable += 1
        if not isinstance(record.get("iteration"), int):
            continue
        while history and history[-1]["iteration"] > record["iteration"]:
            history.pop()
        if history and history[-1]["iteration"] == record["iteration"]:
            history[-1].update(record)
        else:
            history.append(record)
    if not readable:
        raise InputError(f"{os.fspath(path)}: holds no metrics, expected one JSON object per line")
    return history


def draw_loss_curves(
    records: Sequence[Mapping[str, Any]], losses: Sequence[str] | None = None
) -> str | None:
    """Draw the training losses: the total on the left, its parts on the right.

    Each curve is a moving average over its faint raw values. An axis is logarithmic where the
    losses on it span a wide range. Text takes the colour of the page around it, so that the
    drawing suits a light and a dark page, and equal records give equal text.

    Args:
        records: What :func:`read_metrics` returns.
        losses: Names of the parts, in the order of their colours; by default every ``loss_*``.

    Returns:
        An inline ``<svg>`` element for an HTML page, as wide as the page lets it be and without
        styles that reach outside it, or None if the records hold no loss to draw.
    """
    if losses is None:
        found = {key for record in records for key in record if key.startswith("loss_")}
        known = [name for name in _TITLES if name in found]
        losses = known + sorted(found - set(known))
    curves = {name: _curve(records, name) for name in ("total_loss", *losses)}
    curves = {name: curve for name, curve in curves.items() if len(curve[0])}
    if not curves:
        return None
    parts = [name for name in losses if name in curves]
    panels = [names for names in (["total_loss"] if "total_loss" in curves else [], parts) if names]
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(parts)}
    colors["total_loss"] = _TEXT

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "loss curves",
        "svg.image_inline": True,
        "font.size": 9,
        "text.color": _TEXT,
        "axes.labelcolor": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
    }
    # A user's matplotlibrc must not change the drawing.
    with matplotlib.style.context(["default", style]):
        figure = Figure(figsize=(10.5, 3.5))
        ratios = [1.0, 1.15][: len(panels)]
        grid = figure.add_gridspec(
            1,
            len(panels),
            width_ratios=ratios,
            left=0.04,
            right=0.825,
            top=0.88,
            bottom=0.135,
            wspace=0.18,
        )
        for column, names in enumerate(panels):
            axes = figure.add_subplot(grid[0, column])
            _draw_panel(axes, {name: curves[name] for name in names}, colors)
            axes.set_title(
                "Total loss" if names == ["total_loss"] else "Losses by part",
                loc="left",
                fontsize=10,
                fontweight="semibold",
                pad=10,
            )
        buffer = io.StringIO()
        nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue())


def _curve(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [
        (record["iteration"], record[name])
        for record in records
        if isinstance(record.get(name), int | float) and math.isfinite(record[name])
    ]
    values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Average over a centred triangular window of about a fifteenth of the curve."""
    half = max(1, round(len(values) / 30))
    if len(values) < 5:
        return values
    window = np.concatenate([np.arange(1, half + 2), np.arange(half, 0, -1)]).astype(np.float64)
    # Divided by the window's part inside the curve, so that the ends are not pulled to zero.
    total = np.convolve(values, window)[half:-half]
    return total / np.convolve(np.ones_like(values), window)[half:-half]


def _draw_panel(
    axes: Axes,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    colors: Mapping[str, str],
) -> None:
    smooth = {name: _smooth(values) for name, (_, values) in curves.items()}
    everything = np.concatenate([values for _, values in curves.values()])
    logarithmic = bool(
        everything.min() > 0 and everything.max() > _LOG_SCALE_RATIO * everything.min()
    )
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for name, (iterations, values) in curves.items():
        marker = "o" if len(values) == 1 else None
        axes.plot(iterations, values, color=colors[name], linewidth=0.8, alpha=0.25)
        axes.plot(
            iterations, smooth[name], color=colors[name], linewidth=1.7, marker=marker, markersize=4
        )
    lowest, highest = axes.get_ylim()
    axes.set_ylim(lowest, highest)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("iteration")
    axes.grid(axis="y", color=_TEXT, alpha=0.12, linewidth=0.8)
    axes.tick_params(length=0, labelcolor=_TEXT)
    axes.minorticks_off()
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_TEXT)
        spine.set_alpha(0.35)
    if len(curves) > 1:
        _label_ends(axes, curves, smooth, colors)


def _label_ends(
    axes: Axes,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    smooth: Mapping[str, np.ndarray],
    colors: Mapping[str, str],
) -> None:
    """Write each curve's name and its averaged last value at its end, apart from each other."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = {
        name: to_axes.transform((iterations[-1], smooth[name][-1]))[1]
        for name, (iterations, _) in curves.items()
    }
    names = sorted(heights, key=lambda name: heights[name])
    gap = 0.085
    places = [heights[name] for name in names]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places[-1] = min(places[-1], 1.0)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - gap)
    for name, place in zip(names, places, strict=True):
        axes.annotate(
            f"{_TITLES.get(name, name)} {smooth[name][-1]:.3g}",
            (1.0, heights[name]),
            (1.04, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colors[name],
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colors[name],
                "linewidth": 0.7,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 0,
                "relpos": (0.0, 0.5),
            },
        )


def _inline(svg: str) -> str:
    """Reduce matplotlib's SVG document to an element that can stand in an HTML page."""
    svg = svg[svg.index("<svg") :]
    # The style block would apply to the whole page, and a page needs no namespaces.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head).group(0)
    head = (
        f'<svg {view_box} role="img" aria-label="Training losses by iteration" '
        'stroke-linejoin="round" stroke-linecap="butt"'
    )
    svg = f"{head}>{body}".replace(_TEXT, "currentColor")
    return re.sub(r"\n\s*", "\n", svg).strip() + "\n"
