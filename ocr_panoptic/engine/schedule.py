"""The linear rule: a schedule made for one number of images per batch, run with another.

Half the images per batch: half the learning rate, and twice the iterations of everything, so that
the same images are seen at each moment of the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode, get_cfg

from ocr_panoptic.config import add_ocr_panoptic_config
from ocr_panoptic.config_files import config_chain, value_at
from ocr_panoptic.errors import InputError

__all__ = ["check_resumed_batch", "follow_reference_batch", "linear_rule"]

_BATCH, _REFERENCE = "SOLVER.IMS_PER_BATCH", "SOLVER.REFERENCE_BATCH"
# Who sets one of these by hand means a schedule of his own.
_SCHEDULE = ("SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS")
# Each follows too, as in Detectron2's auto_scale_workers, unless it is set by hand itself: the same
# number of evaluations, and of checkpoints on the disk. BASE_LR_END is that of a cosine.
_FOLLOWING = ("SOLVER.BASE_LR_END", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")


def linear_rule(cfg: CfgNode, batch: int) -> dict[str, float | int | tuple[int, ...]]:
    """Return what the schedule of SOLVER.REFERENCE_BATCH images becomes with another batch.

    Args:
        cfg: with a schedule for ``cfg.SOLVER.REFERENCE_BATCH`` images, 1 or more.
        batch: images per batch, 1 or more.

    Returns:
        The value of each key that the rule knows, rounded to whole iterations; periods are at least
        1, or what they were where that is 0 or less, which is never.
    """
    scale = batch / cfg.SOLVER.REFERENCE_BATCH

    def fewer(iterations: int) -> int:
        return round(iterations / scale)

    def period(iterations: int) -> int:
        return max(1, fewer(iterations)) if iterations > 0 else iterations

    solver = cfg.SOLVER
    return {
        "SOLVER.BASE_LR": solver.BASE_LR * scale,
        "SOLVER.MAX_ITER": fewer(solver.MAX_ITER),
        "SOLVER.STEPS": tuple(fewer(step) for step in solver.STEPS),
        "SOLVER.WARMUP_ITERS": fewer(solver.WARMUP_ITERS),
        "SOLVER.BASE_LR_END": solver.BASE_LR_END * scale,
        "SOLVER.CHECKPOINT_PERIOD": period(solver.CHECKPOINT_PERIOD),
        "TEST.EVAL_PERIOD": period(cfg.TEST.EVAL_PERIOD),
    }


def follow_reference_batch(cfg: CfgNode, config_file: str, overrides: Sequence[str]) -> list[str]:
    """Let the schedule follow where SOLVER.IMS_PER_BATCH alone was overridden.

    Overridden is what the command line sets, and what a config file sets that is based on the one
    that sets SOLVER.REFERENCE_BATCH. What is in that file is its schedule. Afterwards
    REFERENCE_BATCH says what the schedule is made for, so that the config that a run writes is not
    scaled again.

    Args:
        cfg: from :func:`~.setup.load_config`, changed in place.
        config_file: that it comes from.
        overrides: keys and values in turn, that it comes from.

    Returns:
        A line that says what was changed, or what would be by the rule where part of the schedule
        was set by hand; none where the batch is the one that the schedule is for.

    Raises:
        InputError: the rule leaves so few iterations that parts of the schedule fall together.
    """
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_BATCH
    if not _can_be_scaled(cfg) or batch == reference:
        return []
    overridden, file = _overridden(config_file, overrides)
    by_hand = [key for key in _SCHEDULE if key in overridden]
    if _BATCH not in overridden or by_hand:
        return _advice(cfg, _schedule_of(file, reference), by_hand)
    ruled = linear_rule(cfg, batch)
    _require_iterations(ruled, cfg)
    changed = []
    for key, value in ruled.items():
        before = _get(cfg, key)
        if key not in overridden and not _equal(value, before):
            _set(cfg, key, value)
            changed.append(f"{key.removeprefix('SOLVER.')} {_text(before)} -> {_text(value)}")
    cfg.SOLVER.REFERENCE_BATCH = batch
    return [
        f"{_BATCH}: {batch} instead of {reference} ({_REFERENCE}), the schedule follows: "
        f"{', '.join(changed)}"
    ]


def check_resumed_batch(cfg: CfgNode, before: object) -> None:
    """Refuse to go on, in a schedule for another batch, from a checkpoint.

    Its iterations are not the ones of the schedule, and Detectron2 keeps its learning rate.

    Args:
        cfg: of the run.
        before: images per batch of the run that wrote the checkpoint, where it says so.

    Raises:
        InputError: the schedule is made for the batch of ``cfg``, and the checkpoint for another.
    """
    batch = cfg.SOLVER.IMS_PER_BATCH
    if isinstance(before, int) and before != batch == cfg.SOLVER.REFERENCE_BATCH:
        raise InputError(
            f"--resume: {cfg.OUTPUT_DIR}: its checkpoint is of a schedule with {before} images per "
            f"batch, and this one ({_BATCH} {batch}) counts its iterations otherwise; expected "
            f"{_BATCH} {before}, or {_REFERENCE} 0 and a schedule of your own"
        )


def _require_iterations(ruled: Mapping, cfg: CfgNode) -> None:
    moments = (0, *ruled["SOLVER.STEPS"], ruled["SOLVER.MAX_ITER"])
    if len(set(moments)) < len({0, *cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER}):
        raise InputError(
            f"{_BATCH}: {cfg.SOLVER.IMS_PER_BATCH} instead of {cfg.SOLVER.REFERENCE_BATCH} "
            f"({_REFERENCE}) would leave MAX_ITER {ruled['SOLVER.MAX_ITER']} and STEPS "
            f"{ruled['SOLVER.STEPS']}, expected a smaller batch, or these set by hand"
        )


def _can_be_scaled(cfg: CfgNode) -> bool:
    """Say whether there is a rule, and values that it can be applied to.

    What is wrong with others is told by the check of all values, and that of two rules at once.
    """
    solver = cfg.SOLVER
    counts = (solver.IMS_PER_BATCH, solver.REFERENCE_BATCH, solver.MAX_ITER)
    if solver.REFERENCE_WORLD_SIZE or not all(type(n) is int and n > 0 for n in counts):
        return False
    numbers = (solver.BASE_LR, solver.BASE_LR_END, solver.WARMUP_ITERS)
    numbers += (solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD)
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        return False
    steps = solver.STEPS
    return isinstance(steps, list | tuple) and all(type(n) is int for n in steps)


def _overridden(config_file: str, overrides: Sequence[str]) -> tuple[set[str], str]:
    """Return the keys set after the schedule of SOLVER.REFERENCE_BATCH, and the file of that."""
    found = set(overrides[::2])
    if _REFERENCE in found:
        return found, config_file
    for path, content in config_chain(config_file):
        if value_at(content, _REFERENCE) is not None:
            return found, path
        keys = (_BATCH, *_SCHEDULE, *_FOLLOWING)
        found |= {key for key in keys if value_at(content, key) is not None}
    raise AssertionError(f"{_REFERENCE} is not 0, and nothing sets it")


def _schedule_of(config_file: str, reference: int) -> CfgNode:
    cfg = get_cfg()
    add_ocr_panoptic_config(cfg)
    cfg.merge_from_file(config_file, allow_unsafe=False)
    cfg.SOLVER.REFERENCE_BATCH = reference
    return cfg


def _advice(cfg: CfgNode, schedule: CfgNode, by_hand: Sequence[str]) -> list[str]:
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_BATCH
    ruled = linear_rule(schedule, batch)
    if all(_equal(ruled[key], _get(cfg, key)) for key in _SCHEDULE):
        return []
    why = f"as {by_hand[0]} is set by hand" if by_hand else "as its file says both"
    words = [f"{key} {_text(ruled[key], quoted=True)}" for key in _SCHEDULE]
    return [
        f"{_BATCH}: {batch}, and the schedule, for {reference} ({_REFERENCE}), does not follow, "
        f"{why}; by the linear rule it would be {' '.join(words)}"
    ]


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == (tuple(other) if isinstance(other, list) else other)


def _text(value: object, *, quoted: bool = False) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = str(tuple(value) if isinstance(value, list) else value)
    return f'"{text}"' if quoted and isinstance(value, tuple) else text


def _get(cfg: CfgNode, key: str) -> object:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _set(cfg: CfgNode, key: str, value: object) -> None:
    *parents, name = key.split(".")
    for part in parents:
        cfg = cfg[part]
    cfg[name] = value
