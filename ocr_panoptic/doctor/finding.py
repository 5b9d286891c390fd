"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["INFO", "OK", "PROBLEM", "Finding"]

OK, INFO, PROBLEM = "ok", "info", "problem"
"""Nothing to say; worth knowing, and dealt with or a matter of taste; hinders, and has a cure."""


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        id: of the check, the same in every release.
        status: :data:`OK`, :data:`INFO` or :data:`PROBLEM`.
        found: what was found, one line.
        cure: the command or the setting that cures it; "" where nothing needs a cure.
        detail: what would be too much for a terminal, such as a traceback.
    """

    id: str
    status: str
    found: str
    cure: str = ""
    detail: str = ""
