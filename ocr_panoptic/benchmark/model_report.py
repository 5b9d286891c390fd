"""The cost of a whole model as markdown, beside Detectron2's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from .measure import read_size
from .model import ModelCost, measure_model

__all__ = ["format_model", "report_model"]

_MIB, _GIB = 2**20, 2**30


def report_model(
    config_file: str, size: str, *, against: str | None = None, opts: list[str], **how: Any
) -> tuple[str, dict[str, Any]]:
    """Return what ``tools/benchmark.py model`` prints, and the numbers as json has them.

    Args:
        config_file: path to a yaml config.
        size: "H,W" of the images.
        against: "stock" or None.
        opts: keys and values of the config, in turn.
        **how: as for :func:`~.model.measure_model`.

    Raises:
        InputError: as :func:`~.model.measure_model`.
    """
    ours, stock = measure_model(
        config_file,
        read_size("--size", size, "H,W such as 480,640"),
        overrides=opts,
        against_stock=against == "stock",
        **how,
    )
    numbers = asdict(ours)
    if stock is not None:
        numbers["ratio_to_stock"] = ours.median_ms / stock.median_ms
        numbers["stock"] = asdict(stock)
    return format_model(ours, stock), numbers


def format_model(ours: ModelCost, stock: ModelCost | None = None) -> str:
    """Return the cost of a model as markdown: the whole, then its parts."""
    height, width = ours.size
    rows = {"ours": ours, **({"stock": stock} if stock is not None else {})}
    whole = [
        {
            "": name,
            "dtype": cost.dtype,
            "params": f"{cost.params / 1e6:.2f} M",
            "FLOPs": f"{cost.flops / 1e9:.1f} G",
            "peak memory": f"{cost.peak_memory_bytes / _MIB:.0f} MiB",
            "median": f"{cost.median_ms:.1f} ms",
            "spread": f"{cost.spread_ms:.1f} ms",
            "images / s": f"{cost.images_per_second:.2f}",
        }
        for name, cost in rows.items()
    ]
    mode = "forward and backward" if ours.mode == "training" else "inference"
    images = f"{ours.batch} image{'s' if ours.batch > 1 else ''} of"
    lines = [f"{images} {height}x{width}, {ours.device}, {mode}"]
    lines += [f"{name}: {cost.config}, {_found(cost)}" for name, cost in rows.items()]
    sections = ["\n".join(lines), _table(whole)]
    if stock is not None:
        sections.append(
            f"Time of ours over that of stock: {ours.median_ms / stock.median_ms:.3f} (below 1 is "
            "faster)"
        )
    if ours.mode == "training":
        needed = ours.peak_memory_bytes + ours.weights_bytes + ours.momentum_bytes
        sections.append(
            f"Training takes {needed / _GIB:.2f} GiB: the peak, "
            f"{ours.weights_bytes / _GIB:.2f} GiB of weights, and "
            f"{ours.momentum_bytes / _GIB:.2f} GiB of SGD's momentum."
        )
    sections += [f"Parts of {name}\n\n{_table(_parts(cost))}" for name, cost in rows.items()]
    return "\n\n".join(sections)


def _found(cost: ModelCost) -> str:
    segments = "" if cost.segments is None else f" and {cost.segments} segments"
    return f"{cost.instances} instances{segments}"


def _parts(cost: ModelCost) -> list[dict[str, str]]:
    return [
        {
            "part": name,
            "params": f"{part.params / 1e6:.2f} M",
            "FLOPs": f"{part.flops / 1e9:.1f} G",
            "memory in use": f"{part.peak_memory_bytes / _MIB:.0f} MiB",
            "median": f"{part.median_ms:.1f} ms",
        }
        for name, part in cost.parts.items()
    ]


def _table(rows: list[dict[str, str]]) -> str:
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
