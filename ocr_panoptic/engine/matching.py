"""Whether the keys of a checkpoint are those of a model, and what it means where they are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from fvcore.common.checkpoint import _filter_reused_missing_keys, _IncompatibleKeys
from torch import nn

from ocr_panoptic.errors import InputError

__all__ = ["describe_start", "require_equal_keys", "require_whole_model"]

_STATISTICS = ("running_mean", "running_var")
# Of a batch norm: no weight, and nobody misses it.
_COUNTER = "num_batches_tracked"
# Constants that come from the config; old checkpoints hold them.
_CONSTANTS = ("pixel_mean", "pixel_std")
_NAMED_IN_A_LINE = 3


def require_equal_keys(model: nn.Module, incompatible: _IncompatibleKeys) -> None:
    """See that a checkpoint holds a model's keys in the model's shapes, and no others.

    Raises:
        InputError: says how many do not, and names some.
    """
    missing, misshapen, unused = _sort_out(model, incompatible)
    if missing or misshapen or unused:
        raise InputError(
            f"{_differences(missing, misshapen, unused)}; expected a checkpoint of this very model"
        )


def require_whole_model(
    model: nn.Module, incompatible: _IncompatibleKeys, parts: Iterable[str]
) -> None:
    """See that no part of a model that is used as it is keeps its random weights.

    Args:
        model: with the weights that fit.
        incompatible: what fvcore found that does not.
        parts: prefixes of keys, that an error calls the model's parts.

    Raises:
        InputError: no key fits, or keys are missing or have another shape; says how many of which
            part. Batch statistics outside of ``parts`` may all be missing, as
            :func:`describe_start` says.
    """
    _require_any_key(model, incompatible)
    missing, misshapen, _ = _sort_out(model, incompatible)
    keys = {key for key in model.state_dict() if not key.endswith(f".{_COUNTER}")}
    # As in describe_start: those of a part that was trained are not merged.
    needed = {key for key in keys if not _prefix_of(key, parts)}
    lost, _ = _without_merged(needed, [key for key in missing if key in needed])
    anew = [*lost, *(key for key in missing if key not in needed), *misshapen]
    if anew:
        counts = Counter(_prefix_of(key, parts) or key.partition(".")[0] for key in anew)
        named = ", ".join(f"{count} of {part}" for part, count in sorted(counts.items()))
        raise InputError(
            f"{len(anew)} of the model's {len(keys)} keys are missing or have another shape "
            f"({named}), and would be random; expected weights of this config, or MODEL.WEIGHTS '' "
            "for random ones"
        )


def describe_start(
    model: nn.Module,
    incompatible: _IncompatibleKeys,
    allow_missing: Sequence[str],
    allow_unused: Sequence[str],
) -> Iterator[str]:
    """Say which parts of a model a checkpoint does not have, where that is normal.

    Batch statistics may all be missing where ``allow_missing`` does not reach, as in the Caffe2
    ResNets, whose statistics are merged into weight and bias; so may go unused a bias in front of
    a norm, as those have one.

    Args:
        model: with the weights that fit.
        incompatible: what fvcore found that does not.
        allow_missing: prefixes of keys, whole names between dots, with ``*`` for anything, that may
            be missing or have another shape.
        allow_unused: such prefixes of the checkpoint's keys that may go unused.

    Yields:
        A line for each layer of another shape, each of the prefixes, and all that goes unused.

    Raises:
        InputError: no key fits, a key that must be there is missing or has another shape, or a key
            goes unused that must not; raised before the first line.
    """
    _require_any_key(model, incompatible)
    missing, misshapen, unused = _sort_out(model, incompatible)
    keys = [key for key in model.state_dict() if not key.endswith(f".{_COUNTER}")]

    needed = {key for key in keys if not _prefix_of(key, allow_missing)}
    lost = [key for key in missing if key in needed]
    lost, merged = _without_merged(needed, lost)
    unexpected = [key for key in unused if not _prefix_of(key, allow_unused)]
    unexpected = [key for key in unexpected if not _is_bias_before_norm(key, keys)]
    broken = {key: sizes for key, sizes in misshapen.items() if key in needed}
    if lost or broken or unexpected:
        keys_to_set = ["MODEL.ALLOW_MISSING"] * bool(lost or broken)
        keys_to_set += ["MODEL.ALLOW_UNUSED"] * bool(unexpected)
        raise InputError(
            f"{_differences(lost, broken, unexpected)}; expected another checkpoint or model, or "
            f"their prefixes in {' and '.join(keys_to_set)}"
        )

    layers = {}
    for key, sizes in misshapen.items():
        layers.setdefault(key.rpartition(".")[0], sizes)
    for layer, sizes in layers.items():
        yield f"{layer} starts anew: {sizes}"
    totals = Counter(_prefix_of(key, allow_missing) for key in keys)
    for prefix, count in Counter(_prefix_of(key, allow_missing) for key in missing).items():
        if prefix:
            yield f"{prefix}: {count} of {totals[prefix]} keys are new, not in the checkpoint"
    if merged:
        yield (
            f"{merged} means and variances of batch norms are not in the checkpoint, "
            "which has them merged into weight and bias: they start at 0 and 1"
        )
    if unused:
        yield f"not used: {', '.join(unused)}"


def _require_any_key(model: nn.Module, incompatible: _IncompatibleKeys) -> None:
    parameters = {name for name, _ in model.named_parameters()}
    if parameters and parameters <= set(incompatible.missing_keys):
        found = ", ".join(incompatible.unexpected_keys[:_NAMED_IN_A_LINE]) or "nothing"
        raise InputError(f"no key of the checkpoint is one of the model's; it holds {found}")


def _sort_out(
    model: nn.Module, incompatible: _IncompatibleKeys
) -> tuple[list[str], dict[str, str], list[str]]:
    """Return what is missing, key -> sizes of what has another shape, and what goes unused."""
    misshapen = {
        key: f"{_size(in_checkpoint)} in the checkpoint, {_size(in_model)} in the model"
        for key, in_checkpoint, in_model in incompatible.incorrect_shapes
    }
    # Two names of one tensor count as one.
    reused = set(_filter_reused_missing_keys(model, incompatible.missing_keys))
    missing = [
        key
        for key in incompatible.missing_keys
        if key in reused and key not in misshapen and not key.endswith(f".{_COUNTER}")
    ]
    unused = [
        key
        for key in incompatible.unexpected_keys
        if not key.endswith(f".{_COUNTER}") and key not in _CONSTANTS
    ]
    return missing, misshapen, sorted(unused)


def _without_merged(keys: set[str], missing: list[str]) -> tuple[list[str], int]:
    """Return what is missing without batch statistics, and their number, if all are merged."""
    statistics = {key for key in keys if key.endswith(_STATISTICS)}
    if not statistics or not statistics <= set(missing) or keys <= set(missing):
        return missing, 0
    return [key for key in missing if key not in statistics], len(statistics)


def _prefix_of(key: str, prefixes: Iterable[str]) -> str:
    """Return the longest of the prefixes that a key has, "" for none."""
    found = (p for p in prefixes if fnmatchcase(key, p) or fnmatchcase(key, f"{p}.*"))
    return max(found, key=len, default="")


def _is_bias_before_norm(key: str, keys: Sequence[str]) -> bool:
    layer, _, kind = key.rpartition(".")
    norm = f"{layer}.norm.weight"
    # Where names are matched by their ends, a checkpoint's are the shorter ones.
    return kind == "bias" and any(name == norm or name.endswith(f".{norm}") for name in keys)


def _differences(missing: Sequence[str], misshapen: dict[str, str], unused: Sequence[str]) -> str:
    shapes = [f"{key}: {sizes}" for key, sizes in misshapen.items()]
    parts = []
    for names, what in (
        (missing, "of the model's keys are missing"),
        (shapes, "have another shape"),
        (unused, "of the checkpoint's keys are not used"),
    ):
        if names:
            more = ", ..." if len(names) > _NAMED_IN_A_LINE else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:_NAMED_IN_A_LINE])}{more})")
    return ", ".join(parts)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
