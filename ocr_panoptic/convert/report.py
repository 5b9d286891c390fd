"""What a conversion did, for people and for programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from ocr_panoptic.errors import printable

from .conversion import Conversion

__all__ = ["as_json", "as_text"]

_NAMED_IN_A_LINE = 3


def as_json(conversion: Conversion) -> dict[str, object]:
    """Return everything, as json can hold it.

    ``matched`` names kept, ``renamed`` maps names of the file to those of the result, where values
    are untouched; ``changed`` lists the tensors whose values are not, with what they are made of.
    """
    plain = [move for move in conversion.moves if not move.how]
    return {
        "exact": not conversion.inexact,
        "inexact": conversion.inexact,
        "matched": [move.target for move in plain if move.sources == (move.target,)],
        "renamed": {
            move.sources[0]: move.target for move in plain if move.sources != (move.target,)
        },
        "changed": [
            {"to": move.target, "from": list(move.sources), "how": move.how}
            for move in conversion.moves
            if move.how
        ],
        "left_out": conversion.left_out,
        "missing": conversion.missing,
        "config": conversion.config,
        "notes": conversion.notes,
    }


def as_text(conversion: Conversion) -> str:
    """Return the numbers, the reasons, and the config lines, a line each."""
    found = as_json(conversion)
    counts = ("matched", "renamed", "changed", "left_out", "missing")
    lines = [", ".join(f"{len(found[key])} {key.replace('_', ' ')}" for key in counts)]
    lines += _by_reason("changed", {change["to"]: change["how"] for change in found["changed"]})
    lines += _by_reason("left out", conversion.left_out)
    lines += _by_reason("missing", conversion.missing)
    lines += [f"not exact: {difference}" for difference in conversion.inexact]
    lines += [f"note: {note}" for note in conversion.notes]
    if conversion.config:
        lines.append("set in the config:")
    for key, value in conversion.config.items():
        # As Detectron2's command line takes it.
        text = f'"{value}"' if isinstance(value, list) else value
        lines.append(f"    {key} {text}")
    return "\n".join(map(printable, lines))


def _by_reason(title: str, reasons: Mapping[str, str]) -> list[str]:
    names = defaultdict(list)
    for name, reason in reasons.items():
        names[reason].append(name)
    lines = []
    for reason, group in names.items():
        more = f", ... ({len(group)})" if len(group) > _NAMED_IN_A_LINE else ""
        lines.append(f"{title}: {', '.join(group[:_NAMED_IN_A_LINE])}{more}: {reason}")
    return lines
