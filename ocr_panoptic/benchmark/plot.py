"""Draw what context schemes cost: against the size of the input, or side by side at one size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import replacing, require_folder

from .context import Measurement

__all__ = ["check_plot", "draw_costs"]

_SUFFIXES = (".png", ".svg")
# A light one and a dark one of each hue, so that neighbours in the legend differ.
_COLORS = (
    *("#3b82c4", "#d9822b", "#2f9e6e", "#c94f7c", "#8b6fd6", "#a08a2c", "#2a9aa8", "#b0603a"),
    *("#1d4e7e", "#8f4f0f", "#14603f", "#7d2347", "#51389b", "#5f5110", "#125b65", "#6b351b"),
)
_LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
_MARKERS = ("o", "s", "D")
_TEXT, _FAINT = "#2b2f36", "#8a9099"


class _Panel(NamedTuple):
    title: str
    unit: str
    value: Callable[[Measurement], float]


_PANELS = (
    _Panel("FLOPs", "G", lambda row: row.flops / 1e9),
    _Panel("Peak memory", "MiB", lambda row: row.peak_memory_bytes / 2**20),
    _Panel("Time", "ms", lambda row: row.median_ms),
)


def check_plot(path: Path, sizes: Sequence[tuple[int, ...]]) -> None:
    """See that a plot can be drawn and written.

    Args:
        path: of the plot.
        sizes: (C, H, W) of each input.

    Raises:
        InputError: if it has another suffix than .png and .svg, or its folder cannot be written to,
            or sizes would share a place in it.
    """
    if len({size[0] for size in sizes}) > 1:
        raise InputError("--plot: sizes have different numbers of channels, expected one")
    places = {}
    for size in sizes:
        other = places.setdefault(_side(size), size)
        if other != size:
            raise InputError(
                f"--plot: sizes {_text(other)} and {_text(size)} have equally many positions, "
                "expected different numbers"
            )
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--plot {path}: expected a name that ends in .png or .svg")
    if path.is_dir():
        raise InputError(f"--plot {path}: is a folder, expected a file")
    require_folder(path.parent, "--plot")


def _side(size: Sequence[int]) -> float:
    """Return the side of the square with as many positions as an input of (C, H, W)."""
    return math.sqrt(size[1] * size[2])


def _text(size: Sequence[int]) -> str:
    return ",".join(map(str, size))


def draw_costs(rows: Sequence[Measurement], path: Path) -> None:
    """Draw FLOPs, peak memory and time, as OCNet's Fig. 3 and 4.

    With several sizes each scheme is a line over the side of the input, of one that is not square
    over that of the square with as many positions, both axes logarithmic; with one size, a bar.
    Each device, dtype and mode gets a row of its own.

    Args:
        rows: of one number of channels; one at least.
        path: .png or .svg, replaced when all went well.
    """
    groups = [
        list(group)
        for _, group in itertools.groupby(
            rows, lambda row: (row.device, row.dtype, row.mode, row.batch)
        )
    ]
    names = list(dict.fromkeys(row.name for row in rows))
    sides = {_side(row.size): tuple(row.size[1:]) for row in rows}
    # Equal content for equal rows, whatever a user's matplotlibrc says.
    style = {
        "svg.hashsalt": "costs",
        "font.size": 9,
        "text.color": _TEXT,
        "axes.labelcolor": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
    }
    with matplotlib.style.context(["default", style]):
        figure = _lines(groups, names, sides) if len(sides) > 1 else _bars(groups, names)
        with replacing(path) as temporary:
            kind = path.suffix.lower().removeprefix(".")
            # No date: equal rows give an equal file.
            nothing = {"Date": None} if kind == "svg" else {}
            figure.savefig(temporary, format=kind, dpi=160, facecolor="white", metadata=nothing)


def _lines(
    groups: Sequence[Sequence[Measurement]],
    names: Sequence[str],
    sides: Mapping[float, tuple[int, int]],
) -> Figure:
    square = all(height == width for height, width in sides.values())
    label = "side of the input, positions" if square else "height x width, positions"
    ticks = {
        side: f"{size[0]}" if square else f"{size[0]}x{size[1]}" for side, size in sides.items()
    }
    height = max(3.6, 0.9 + 0.19 * len(names))
    figure = Figure(figsize=(13.0, height * len(groups)), layout="constrained")
    figure.get_layout_engine().set(wspace=0.04, hspace=0.08)
    grid = figure.subplots(len(groups), len(_PANELS), squeeze=False)
    for line, group in zip(grid, groups, strict=True):
        for axes, panel in zip(line, _PANELS, strict=True):
            for index, name in enumerate(names):
                points = sorted(
                    (_side(row.size), panel.value(row)) for row in group if row.name == name
                )
                axes.plot(*zip(*points, strict=True), label=name, **_look(index))
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda side, _: ticks[side]))
            _plain_numbers(axes)
            axes.grid(axis="y", color=_TEXT, alpha=0.10, linewidth=0.8)
            axes.set_xlabel(label)
            _dress(axes, panel, group, "bottom")
        # The legend in the order in which the lines of time end, the dearest first.
        last = {row.name: row.median_ms for row in group if _side(row.size) == max(sides)}
        handles = dict(zip(*line[-1].get_legend_handles_labels()[::-1], strict=True))
        order = sorted(handles, key=lambda name: -last.get(name, 0.0))
        line[-1].legend(
            [handles[name] for name in order],
            order,
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            frameon=False,
            fontsize=8,
            labelspacing=0.35,
            handlelength=2.6,
        )
    return figure


def _bars(groups: Sequence[Sequence[Measurement]], names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(11.0, (0.9 + 0.24 * len(names)) * len(groups)), layout="constrained")
    grid = figure.subplots(len(groups), len(_PANELS), squeeze=False, sharey="row")
    for line, group in zip(grid, groups, strict=True):
        shown = sorted(group, key=lambda row: row.median_ms, reverse=True)
        for axes, panel in zip(line, _PANELS, strict=True):
            values = [panel.value(row) for row in shown]
            bars = axes.barh([row.name for row in shown], values, color=_COLORS[0], height=0.68)
            axes.bar_label(bars, [_number(value) for value in values], padding=3, fontsize=8)
            axes.margins(x=0.16)
            # As much room above the first bar and below the last as between them.
            axes.set_ylim(-0.66, len(shown) - 0.34)
            axes.xaxis.set_major_locator(NullLocator())
            _dress(axes, panel, group, "left")
    return figure


def _look(index: int) -> dict:
    """Return the style of a scheme's line: colours first, then strokes."""
    turn = index // len(_COLORS) + (index % len(_COLORS)) // 8
    return {
        "color": _COLORS[index % len(_COLORS)],
        "linestyle": _LINES[turn % len(_LINES)],
        "marker": _MARKERS[turn % len(_MARKERS)],
        "markersize": 3.6,
        "linewidth": 1.6,
    }


def _plain_numbers(axes: Axes) -> None:
    low, high = axes.get_ylim()
    # Over few decades, 1, 2 and 5 of each; over many, every decade.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 2000 * low else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _dress(axes: Axes, panel: _Panel, group: Sequence[Measurement], base: str) -> None:
    """Add the title, the conditions above the first panel, and a line at the ``base``."""
    axes.set_title(
        f"{panel.title}, {panel.unit}", loc="left", fontsize=10, fontweight="semibold", pad=16
    )
    row = group[0]
    mode = "forward and backward" if row.mode == "training" else "forward"
    conditions = [f"{row.size[0]} channels", row.dtype, row.device, mode]
    if len({row.size for row in group}) == 1:
        conditions[0] = "x".join(map(str, row.size))
    if row.batch > 1:
        conditions.append(f"batch of {row.batch}")
    if panel is _PANELS[0]:
        axes.annotate(
            ", ".join(conditions),
            (0, 1),
            (0, 5),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8,
            color=_FAINT,
        )
    axes.tick_params(length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == base)
        spine.set_color(_FAINT)
