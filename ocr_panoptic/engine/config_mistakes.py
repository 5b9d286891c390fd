"""What is wrong with a config file or an override, in words, before Detectron2 merges it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ocr_panoptic.errors import InputError

from .value_rules import KINDS

__all__ = ["check_config_file", "check_overrides", "reason_of_merge"]

_ADDRESSES = ("https://", "http://")
# As yacs says it: of which type a value is and was given, both values, and the key.
_TYPE_MISMATCH = re.compile(
    r"Type mismatch \(<class '(\w+)'> vs\. .*?\) "
    r"with values \(.* vs\. (.*)\) for config key: (\S+)",
    re.DOTALL,
)
_KINDS = {kind.__name__: words for kind, words in KINDS.items()}


def check_config_file(config_file: str, defaults: CfgNode) -> None:
    """Check that a config file, and what it is based on, can be merged.

    Keys that are unknown and values of a wrong type are left to the merge.

    Args:
        config_file: path to a yaml config.
        defaults: what it is going to be merged into.

    Raises:
        InputError: names the file, and the one that is based on it; and what was expected.
    """
    _check_file(config_file, defaults, ())


def _check_file(path: str, defaults: CfgNode, above: tuple[str, ...]) -> None:
    name = f"{above[0]}: _BASE_ {path}" if above else path
    content = _read(path, name)
    if content is None:
        raise InputError(f"{name}: empty, expected keys of the config")
    if not isinstance(content, dict):
        raise InputError(f"{name}: a {type(content).__name__}, expected keys of the config")
    _check_nodes(content, defaults, name, "")
    bases = content.get("_BASE_", [])
    wanted = [bases] if isinstance(bases, str) else bases
    if not isinstance(wanted, list) or not all(isinstance(base, str) and base for base in wanted):
        raise InputError(f"{name}: _BASE_: {bases}, expected the path of a config file, or a list")
    for base in wanted:
        # As fvcore finds them.
        found = os.path.expanduser(base)
        if not found.startswith(("/", *_ADDRESSES)):
            found = os.path.join(os.path.dirname(path), found)
        if os.path.realpath(found) in map(os.path.realpath, (*above, path)):
            raise InputError(f"{name}: _BASE_: {base} is based on itself, expected another file")
        if not found.startswith(_ADDRESSES) and not os.path.isfile(found):
            raise InputError(f"{name}: _BASE_: {found}: no such file, expected a yaml config")
        _check_file(found, defaults, (*above, path))


def _read(path: str, name: str) -> object:
    try:
        with PathManager.open(path, "r") as file:
            return yaml.safe_load(file)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}, expected a yaml config") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: no {error.encoding} text, expected a yaml config") from error
    except RecursionError as error:
        raise InputError(f"{name}: too deep to read, expected a yaml config") from error
    # Of numbers and dates that are none, too.
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: {reason}; expected a yaml config") from error


def _check_nodes(content: dict, defaults: CfgNode, name: str, above: str) -> None:
    """Check that keys are names, and that what has keys in the config has them in a file."""
    for part, value in content.items():
        if not isinstance(part, str):
            raise InputError(f"{name}: {above}{part}: no name, expected a key of the config")
        default = defaults.get(part)
        if not isinstance(default, CfgNode):
            continue
        key = f"{above}{part}"
        if not isinstance(value, dict):
            found = "nothing in it" if value is None else value
            raise InputError(f"{name}: {key}: {found}, expected keys such as {_some(default, key)}")
        _check_nodes(value, default, name, f"{key}.")


def check_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Check that overrides are pairs, each of a key of the config that has a value.

    Args:
        cfg: what they are going to be merged into.
        overrides: keys and values in turn.

    Raises:
        InputError: names the key, or says how many words there are.
    """
    if len(overrides) % 2:
        raise InputError(
            f"command line: {len(overrides)} words after the options, expected pairs of KEY VALUE"
        )
    for key in overrides[::2]:
        node: object = cfg
        for part in key.split("."):
            if not isinstance(node, CfgNode) or part not in node:
                raise InputError(
                    f"command line: Non-existent key: {key}, expected a key of the config"
                )
            node = node[part]
        if isinstance(node, CfgNode):
            raise InputError(
                f"command line: {key}: has keys of its own, expected one such as {_some(node, key)}"
            )


def _some(node: CfgNode, key: str) -> str:
    return f"{key}.{next(iter(node))}"


def reason_of_merge(error: Exception) -> str:
    """Return in one line what yacs has against a file or an override."""
    # KeyError would put its message in quotes.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if (found := _TYPE_MISMATCH.fullmatch(text.strip())) and found[1] in _KINDS:
        text = f"{found[3]}: {found[2]}, expected {_KINDS[found[1]]}"
    elif text.startswith("Non-existent config key"):
        text += ", expected a key of the config"
    return " ".join(text.split())
