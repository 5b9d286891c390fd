"""What is wrong with a result file: findings, and a collection of them that stays small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ocr_panoptic.data.problems import Problem, shown

__all__ = ["MISSING", "Finding", "Problems", "Words", "make_problem"]


class Words(str):
    """What was found, said in words: shown without quotes, as it is no value of the file."""

    __slots__ = ()
    __repr__ = str.__str__


MISSING = Words("missing")
"""Found where a field should be."""

Finding = tuple[str, Any, str]
"""Kind of a mistake, in words joined by hyphens; the value found, None if none; the expected."""


def make_problem(file: str, image_id: int | None, finding: Finding) -> Problem:
    """Make a problem of a finding.

    Args:
        file: where it is: an entry of a zip, or a row of a json as ``name.json[3]``.
        image_id: of the image that it is about, if it is about one.
        finding: the mistake.
    """
    kind, value, expected = finding
    image = "" if image_id is None else f" image_id {image_id}:"
    place = f"{file}:{image} {kind.replace('-', ' ')}"
    found = "" if value is None else shown(value)
    return Problem(kind, file, image_id, value, expected, place, found)


class Problems:
    """Collects problems; of each kind the first thousand are kept and the others counted."""

    MOST_OF_A_KIND = 1000

    def __init__(self) -> None:
        self.rows: list[Problem] = []
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(self._counts.values())

    def has(self, *kinds: str) -> bool:
        """Return whether there is a problem of one of the kinds."""
        return any(kind in self._counts for kind in kinds)

    def add(
        self, kind: str, file: str, value: Any, expected: str, image_id: int | None = None
    ) -> None:
        """Note a mistake; the arguments are those of :func:`make_problem`."""
        self.extend(file, image_id, [(kind, value, expected)])

    def extend(self, file: str, image_id: int | None, findings: Iterable[Finding]) -> None:
        """Note all findings in a file about an image."""
        for finding in findings:
            self._counts[finding[0]] += 1
            if self._counts[finding[0]] <= self.MOST_OF_A_KIND:
                self.rows.append(make_problem(file, image_id, finding))

    @property
    def left_out(self) -> dict[str, int]:
        """Kind -> how many of it are counted only."""
        return {
            kind: count - self.MOST_OF_A_KIND
            for kind, count in self._counts.items()
            if count > self.MOST_OF_A_KIND
        }
