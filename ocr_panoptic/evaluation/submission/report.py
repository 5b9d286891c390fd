"""What was built or checked, in words and for a json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ocr_panoptic.errors import InputError

from .problems import Problems

__all__ = ["LARGEST_JSON", "LARGE_JSON", "Built", "Report", "json_size_warning"]

LARGE_JSON = 10**9
"""Bytes of a json at which servers have failed."""
LARGEST_JSON = 2**31
"""Bytes of a json that are read."""


@dataclass
class Built:
    """A result file that was built."""

    zip: str
    task: str
    images: int
    """Of the list."""
    empty: int = 0
    """Of these, those without a prediction."""
    entries: int = 0
    """Detections, or segments."""
    left_out: int = 0
    """Detections below the least score or beyond the best 100 of an image."""
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield what is printed."""
        yield f"{self.zip}: {_counts(self.task, self.images, self.entries)}"
        if self.empty:
            yield f"images without a prediction: {self.empty}"
        if self.left_out:
            yield f"left out, beyond the best 100 or below --min-score: {self.left_out}"
        yield from _warnings(self.warnings)

    def as_dict(self) -> dict[str, Any]:
        """Return what is printed, for a json."""
        return asdict(self)

    def raise_for_problems(self) -> None:
        """Do nothing: a file with problems is not built."""


@dataclass
class Report:
    """What a result file holds, and what is wrong with it."""

    zip: str
    task: str
    """``panoptic``, ``segm``, ``bbox``, or ``detections`` where it holds none that would tell."""
    images: int = 0
    """Listed images that it has an entry of."""
    entries: int = 0
    """Detections, or segments."""
    problems: Problems = field(default_factory=Problems)
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield what is printed: each problem, then what there is."""
        for problem in self.problems.rows:
            yield problem.message
        for kind, count in self.problems.left_out.items():
            yield f"... and {count} more: {kind.replace('-', ' ')}"
        yield from _warnings(self.warnings)
        counts = _counts(self.task, self.images, self.entries)
        yield f"{self.task}: {counts}, {_problems(len(self.problems))}"

    def as_dict(self) -> dict[str, Any]:
        """Return what is printed, for a json."""
        return {
            "zip": self.zip,
            "task": self.task,
            "images": self.images,
            "entries": self.entries,
            "problems": [problem.to_json() for problem in self.problems.rows],
            "left_out": self.problems.left_out,
            "warnings": self.warnings,
        }

    def raise_for_problems(self) -> None:
        """See that there are none.

        Raises:
            InputError: says how many there are.
        """
        if count := len(self.problems):
            raise InputError(f"{self.zip}: {_problems(count)}; expected none")


def json_size_warning(name: str, size: int) -> list[str]:
    """Return a line about a json so large that servers have failed on it, or nothing."""
    if size <= LARGE_JSON:
        return []
    return [
        f"{name}: {size / 10**9:.1f} GB; servers ran out of memory above 1 GB (build --min-score"
        " leaves out the detections with the lowest scores)"
    ]


def _problems(count: int) -> str:
    return f"{count or 'no'} problem{'' if count == 1 else 's'}"


def _counts(task: str, images: int, entries: int) -> str:
    return f"{images} images, {entries} {'segments' if task == 'panoptic' else 'detections'}"


def _warnings(warnings: list[str]) -> Iterator[str]:
    for warning in warnings:
        yield f"warning: {warning}"
