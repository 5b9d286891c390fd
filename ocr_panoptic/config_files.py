"""Config files as they are written: which of them says what, down their ``_BASE_``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import yaml
from detectron2.utils.file_io import PathManager

__all__ = ["ConfigFile", "config_chain", "value_at"]


class ConfigFile(NamedTuple):
    """One file of those that make a config."""

    path: str
    content: dict


def config_chain(config_file: str) -> Iterator[ConfigFile]:
    """Give a config file and those that it is based on, each before what it overrides.

    Args:
        config_file: a yaml config that could be merged.
    """
    with PathManager.open(config_file, "r") as file:
        content = yaml.safe_load(file) or {}
    yield ConfigFile(config_file, content)
    bases = content.get("_BASE_", ())
    # Of several, the later override the earlier.
    for base in [bases] if isinstance(bases, str) else reversed(bases):
        # As fvcore finds them.
        if not base.startswith(("~", "/", "https://", "http://")):
            base = os.path.join(os.path.dirname(config_file), base)
        yield from config_chain(os.path.expanduser(base))


def value_at(content: dict, key: str) -> object:
    """Return the value of a dotted key in a file's content, None where it has none."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content
