"""The cost of context schemes as a markdown table with the published rows beside, and as a plot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .context import Measurement, measure_schemes
from .measure import read_size
from .plot import check_plot, draw_costs
from .published import FIGURE_4_SIZE
from .schemes import registered_schemes

__all__ = ["format_table", "report_context"]

# Part of a published count by which a row may differ without a note.
_TOLERANCE = 0.03


def report_context(
    names: Sequence[str] | None, sizes: Sequence[str], *, plot: Path | None = None, **how: Any
) -> tuple[str, list[dict[str, Any]]]:
    """Return what ``tools/benchmark.py context`` prints, and the rows as json has them.

    Args:
        names: of schemes; None for all that are registered.
        sizes: "C,H,W" each.
        plot: where to draw cost against the size of the input, .png or .svg.
        **how: as for :func:`~.context.measure_schemes`.

    Raises:
        InputError: as :func:`~.context.measure_schemes`, and for a plot that cannot be.
    """
    read = [read_size("--size", size, "C,H,W such as 512,128,128") for size in sizes]
    if plot is not None:
        check_plot(plot, read)
    rows = measure_schemes(names or registered_schemes(), read, **how)
    if plot is not None:
        draw_costs(rows, plot)
    return format_table(rows), [asdict(row) for row in rows]


def format_table(rows: Sequence[Measurement]) -> str:
    """Return the measurements as markdown: a table for each size, dtype, device and mode.

    Times are told as ratios to the slowest row of a table, too. Published numbers are shown where
    they were made under the same conditions but the hardware.
    """
    groups = itertools.groupby(
        rows, lambda row: (tuple(row.size), row.batch, row.dtype, row.device, row.mode)
    )
    return "\n\n".join(_format_group(list(group)) for _, group in groups)


def _format_group(rows: list[Measurement]) -> str:
    first = rows[0]
    slowest = max(row.median_ms for row in rows)
    comparable = [row for row in rows if row.comparable]
    sources = _sources(comparable)
    columns: dict[str, Callable[[Measurement], str]] = {
        "scheme": lambda row: row.name,
        "params": lambda row: f"{row.params / 1e6:.2f} M",
        "published": lambda row: _published(row, "params", 1e6, "{:.1f} M"),
        "FLOPs": lambda row: f"{row.flops / 1e9:.1f} G",
        "published ": lambda row: _published(row, "flops", 1e9, "{:.0f} G"),
        "peak memory": lambda row: f"{row.peak_memory_bytes / 2**20:.0f} MiB",
        "published  ": lambda row: _by_source(row, sources, "peak_memory_bytes", 2**20, "MiB"),
        "median": lambda row: f"{row.median_ms:.1f} ms",
        "spread": lambda row: f"{row.spread_ms:.1f} ms",
        "published   ": lambda row: _by_source(row, sources, "median_ms", 1, "ms"),
        "ratio to slowest": lambda row: f"{row.median_ms / slowest:.3f}",
        "ratio to its FLOPs as matrix products": _products,
    }
    table = [
        {
            head: cell(row)
            for head, cell in columns.items()
            if comparable or not head.startswith("published")
        }
        for row in rows
    ]
    size = "x".join(map(str, first.size))
    images = f", batch of {first.batch}" if first.batch > 1 else ""
    mode = "forward and backward" if first.mode == "training" else first.mode
    heading = f"{size}{images}, {first.dtype}, {first.device}, {mode}"
    text = tabulate(table, headers="keys", tablefmt="github", disable_numparse=True)
    notes = []
    if sources:
        told = " / ".join(f"{source} ({hardware})" for source, hardware in sources.items())
        notes.append(f"Published: {told}; their M of memory is taken as MiB.")
    notes += _differences(comparable)
    if first.mode == "forward" and tuple(first.size) == FIGURE_4_SIZE:
        notes += _compare_with_dense({row.name: row for row in rows})
    return "\n\n".join([heading, text, "\n".join(notes)]).rstrip()


def _products(row: Measurement) -> str:
    return "" if row.ratio_to_products is None else f"{row.ratio_to_products:.2f}"


def _published(row: Measurement, key: str, unit: float, text: str) -> str:
    """Return what the tables say, which are equal where they count."""
    if not row.comparable or row.published[key] is None:
        return ""
    return text.format(row.published[key] / unit)


def _by_source(row: Measurement, sources: dict[str, str], key: str, unit: float, name: str) -> str:
    """Return what each table says of what it measured."""
    if not row.comparable:
        return ""
    found = {rows["source"]: f"{rows[key] / unit:.0f}" for rows in row.published_rows}
    return f"{' / '.join(found.get(source, '-') for source in sources)} {name}"


def _sources(rows: Sequence[Measurement]) -> dict[str, str]:
    """Return the tables that published rows are of, the OCR paper's first, and their hardware."""
    found = {given["source"]: given["hardware"] for row in rows for given in row.published_rows}
    return dict(sorted(found.items(), reverse=True))


def _differences(rows: Sequence[Measurement]) -> Iterator[str]:
    """Say how published rows are read, and how far off those are that are not met."""
    for row in rows:
        counts = {"params": row.params, "FLOPs": row.flops}
        published = row.published["params"], row.published["flops"]
        found = [
            f"{name} {100 * (count / expected - 1):+.1f} %"
            for (name, count), expected in zip(counts.items(), published, strict=True)
            if expected is not None and abs(count / expected - 1) > _TOLERANCE
        ]
        reading = f": {row.reading}" if row.reading else ""
        if found:
            yield f"{row.name} is not as published ({', '.join(found)}){reading}"
        elif reading:
            yield f"{row.name}{reading}"


def _compare_with_dense(rows: dict[str, Measurement]) -> Iterator[str]:
    """Say what ISA costs of dense self-attention, where both were measured as in the figure."""
    dense_alone = "sa" if "sa" in rows else "self_attention"
    for sparse, dense, what in (
        ("isa", dense_alone, "alone"),
        ("isa_textbook", dense_alone, "alone, as in Algorithm 1"),
        ("base_oc_isa", "base_oc_sa", "with the fusion of Base-OC"),
    ):
        if sparse in rows and dense in rows:
            share = 100 * rows[sparse].flops / rows[dense].flops
            yield (
                f"FLOPs of {sparse}: {share:.1f} % of {dense}, {what}"
                " (published: 24.6 %, OCNet Fig. 4, without saying what is counted)"
            )
    if {"isa", "sa_explicit"} <= set(rows):
        share = 100 * rows["isa"].peak_memory_bytes / rows["sa_explicit"].peak_memory_bytes
        yield f"Peak memory of isa: {share:.1f} % of sa_explicit (published: 10.2 %, OCNet Fig. 4)"
