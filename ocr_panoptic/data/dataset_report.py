"""What a check of a data set found, as text for a terminal or a log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from ocr_panoptic.data.dataset_check import DatasetReport, LabelCount
from ocr_panoptic.data.problems import KINDS, Problem
from ocr_panoptic.errors import printable

__all__ = ["format_report"]


def format_report(report: DatasetReport, limit: int | None = 10) -> str:
    """Return the report as lines: kinds with counts first, then each problem under its kind.

    Args:
        report: what was found.
        limit: problems to write out of each kind; the others are counted. None for all.
    """
    return "\n".join(_lines(report, limit))


def _lines(report: DatasetReport, limit: int | None) -> Iterator[str]:
    found = (*_by_kind(report.problems), *_by_kind(report.notes))
    if found:
        rows = [
            (len(problems), kind, ("note: " if KINDS[kind].is_note else "") + KINDS[kind].meaning)
            for kind, problems in found
        ]
        yield tabulate(rows, tablefmt="plain")
        yield ""
    for kind, problems in found:
        yield f"{kind}: {KINDS[kind].cure}"
        shown = problems if limit is None else problems[:limit]
        yield from (f"  {problem.message}" for problem in shown)
        if len(shown) < len(problems):
            yield f"  and {len(problems) - len(shown)} more"
        yield ""
    if report.labels:
        yield from _label_lines(report.labels)
    yield (
        f"{report.images} images, {report.segments} segments:"
        f" {_count(report.problems, 'problem')}, {_count(report.notes, 'note')}"
    )


def _by_kind(problems: Sequence[Problem]) -> list[tuple[str, list[Problem]]]:
    kinds = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    return list(kinds.items())


def _label_lines(labels: Sequence[LabelCount]) -> Iterator[str]:
    total = max(1, sum(label.pixels for label in labels))
    rows = [
        (
            label.label,
            "no class" if label.name is None else printable(label.name),
            label.pixels,
            f"{100 * label.pixels / total:.2f}",
            label.images,
        )
        for label in labels
    ]
    headers = ("label", "class", "pixels", "%", "images")
    yield tabulate(rows, headers, disable_numparse=True, colalign=("right", "left", *["right"] * 3))
    yield ""


def _count(problems: Sequence[Problem], name: str) -> str:
    return f"{len(problems) or 'no'} {name}{'' if len(problems) == 1 else 's'}"
