"""What a value of a config may be: the rules that tables of keys are checked by."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, get_cfg

from ocr_panoptic.config import add_ocr_panoptic_config
from ocr_panoptic.errors import InputError

__all__ = [
    "KINDS",
    "are_integers",
    "are_numbers",
    "check_choice",
    "check_kinds",
    "check_range",
    "require",
    "value_of",
]

KINDS = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
}
"""Type of a default -> what an error calls its values."""


def check_kinds(cfg: CfgNode) -> None:
    """Check that every value is of its default's type: yacs lets None replace any, and any None.

    An integer does for a number, a list for a tuple. A default that is None takes anything.

    Args:
        cfg: a whole config.

    Raises:
        InputError: names the key, its value and what was expected.
    """
    defaults = get_cfg()
    add_ocr_panoptic_config(defaults)
    _check_kinds(cfg, defaults, "")


def _check_kinds(cfg: CfgNode, defaults: CfgNode, above: str) -> None:
    for name, default in defaults.items():
        key, value = f"{above}{name}", cfg[name]
        if isinstance(default, CfgNode):
            _check_kinds(value, default, f"{key}.")
        elif default is not None and not _is_like(value, default):
            raise InputError(f"{key}: {value}, expected {KINDS[type(default)]}")
        elif isinstance(value, str) and "\0" in value:
            # Of a file's name the system takes none, and of another nobody means one.
            raise InputError(f"{key}: '{value}', expected text without a NUL byte")


def _is_like(value: object, default: object) -> bool:
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple)
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)


def check_range(cfg: CfgNode, key: str, least: float, greatest: float | None) -> None:
    """Raise InputError unless a number is from ``least`` to ``greatest``, None for any."""
    value = value_of(cfg, key)
    # Not a number is less than nothing.
    if not value >= least or (greatest is not None and value > greatest):
        to = "or more" if greatest is None else f"to {greatest}"
        raise InputError(f"{key}: {value}, expected {least} {to}")


def check_choice(cfg: CfgNode, key: str, choices: tuple) -> None:
    """Raise InputError unless a value is one of ``choices``."""
    value = value_of(cfg, key)
    if value not in choices:
        names = " ".join(str(choice) for choice in choices if choice != "")
        nothing = ", or ''" if "" in choices else ""
        raise InputError(f"{key}: '{value}', expected one of {names}{nothing}")


def require(fine: bool, cfg: CfgNode, key: str, expected: str) -> None:
    """Raise InputError, which names the key and its value, unless all is fine."""
    if not fine:
        raise InputError(f"{key}: {value_of(cfg, key)}, expected {expected}")


def are_integers(numbers: object) -> bool:
    """Say whether ``numbers`` is a list of integers."""
    return isinstance(numbers, list | tuple) and all(type(number) is int for number in numbers)


def are_numbers(numbers: object) -> bool:
    """Say whether ``numbers`` is a list of numbers."""
    return isinstance(numbers, list | tuple) and all(type(n) in (int, float) for n in numbers)


def value_of(cfg: CfgNode, key: str) -> Any:
    """Return the value of a dotted key."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
