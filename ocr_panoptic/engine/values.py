"""Ranges of config values that would otherwise fail deep inside a run."""

from __future__ import annotations

from detectron2.config import CfgNode

from ocr_panoptic.errors import InputError
from ocr_panoptic.modeling.context import CONTEXT_REGISTRY

__all__ = ["check_values"]

_NORMS = ("", "BN", "SyncBN", "GN", "LN", "FrozenBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
_NORM_KEYS = (
    *("MODEL.SEM_SEG_HEAD.OCR.NORM", "MODEL.SEM_SEG_HEAD.NORM", "MODEL.FPN.NORM"),
    "MODEL.RESNETS.NORM",
)
# With weights that are learnt: the one in front of the sum starts at zero.
_CONTEXT_NORMS = tuple(norm for norm in _NORMS if norm not in ("", "FrozenBN"))
_STAGES = ("res2", "res3", "res4", "res5")
_ORDERS = (["global", "local"], ["local", "global"], ["global"], ["local"])
# No map has more positions along a side, and unmasked ones are padded to a multiple.
_MAX_PARTITION = 4096
# Key -> least value, greatest value.
_RANGES = {
    "MODEL.SEM_SEG_HEAD.OCR.CHANNELS": (1, None),
    "MODEL.SEM_SEG_HEAD.OCR.KEY_CHANNELS": (1, None),
    "MODEL.SEM_SEG_HEAD.OCR.TRANSFORM_LAYERS": (1, None),
    "MODEL.SEM_SEG_HEAD.OCR.DROPOUT": (0, 1),
    "MODEL.SEM_SEG_HEAD.OCR.AUX_LOSS_WEIGHT": (0, None),
    "SOLVER.MAX_ITER": (1, None),
    "SOLVER.WARMUP_ITERS": (0, None),
    "SOLVER.CHECKPOINT_PERIOD": (1, None),
    "DATALOADER.NUM_WORKERS": (0, None),
}


def check_values(cfg: CfgNode, *, train: bool, processes: int) -> None:
    """Check the values that a run needs.

    Args:
        cfg: the config.
        train: whether it is going to be trained.
        processes: that share SOLVER.IMS_PER_BATCH.

    Raises:
        InputError: names the key, its value and what was expected.
    """
    for key in _NORM_KEYS:
        _check_choice(cfg, key, _NORMS)
    for key, (least, greatest) in _RANGES.items():
        value = _get(cfg, key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{key}: {value}, expected a number")
        if not value >= least or (greatest is not None and value > greatest):
            to = "or more" if greatest is None else f"to {greatest}"
            raise InputError(f"{key}: {value}, expected {least} {to}")
    _check_context(cfg)
    ocr = cfg.MODEL.SEM_SEG_HEAD.OCR
    if ocr.NORM == "GN" and (ocr.CHANNELS % 32 or ocr.KEY_CHANNELS % 32 or ocr.KEY_CHANNELS < 64):
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.OCR.NORM: GN with CHANNELS {ocr.CHANNELS} and KEY_CHANNELS "
            f"{ocr.KEY_CHANNELS}, expected multiples of its 32 groups, KEY_CHANNELS 64 or more"
        )
    for key in ("TRAIN", "TEST"):
        names = cfg.DATASETS[key]
        if not all(isinstance(name, str) for name in names):
            raise InputError(f"DATASETS.{key}: {names}, expected names of data sets")
    if train:
        _check_solver(cfg, processes)


def _check_context(cfg: CfgNode) -> None:
    context = cfg.MODEL.RESNETS.CONTEXT
    known = sorted(name for name, _ in CONTEXT_REGISTRY)
    _check_choice(cfg, "MODEL.RESNETS.CONTEXT.NAME", ("", *known))
    if not context.NAME:
        return
    if cfg.MODEL.BACKBONE.NAME != "build_context_resnet_fpn_backbone":
        raise InputError(
            f"MODEL.RESNETS.CONTEXT.NAME: '{context.NAME}' with MODEL.BACKBONE.NAME "
            f"{cfg.MODEL.BACKBONE.NAME}, expected build_context_resnet_fpn_backbone"
        )
    _check_choice(cfg, "MODEL.RESNETS.CONTEXT.NORM", _CONTEXT_NORMS)
    _check_choice(cfg, "MODEL.RESNETS.CONTEXT.STAGE", _STAGES)
    for key in ("SUBSAMPLE", "MASK_PADDING"):
        _check_choice(cfg, f"MODEL.RESNETS.CONTEXT.{key}", (True, False))
    partitions, order = context.PARTITIONS, context.ORDER
    fits = isinstance(partitions, list | tuple) and len(partitions) == 2
    if not fits or not all(type(p) is int and 0 < p <= _MAX_PARTITION for p in partitions):
        raise InputError(
            f"MODEL.RESNETS.CONTEXT.PARTITIONS: {partitions}, expected two integers from 1 to "
            f"{_MAX_PARTITION}"
        )
    if not isinstance(order, list | tuple) or list(order) not in _ORDERS:
        raise InputError(
            f"MODEL.RESNETS.CONTEXT.ORDER: {order}, expected one or both of 'global', 'local'"
        )
    if type(context.BLOCK) is not int:
        raise InputError(f"MODEL.RESNETS.CONTEXT.BLOCK: {context.BLOCK}, expected an integer")


def _check_choice(cfg: CfgNode, key: str, choices: tuple) -> None:
    value = _get(cfg, key)
    # None can override a value of any type.
    if type(value) is not type(choices[0]) or value not in choices:
        names = " ".join(str(choice) for choice in choices if choice != "")
        nothing = ", or ''" if "" in choices else ""
        raise InputError(f"{key}: '{value}', expected one of {names}{nothing}")


def _check_solver(cfg: CfgNode, processes: int) -> None:
    images = cfg.SOLVER.IMS_PER_BATCH
    if images < 1 or images % processes:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH: {images} images for {processes} processes, "
            f"expected a multiple of {processes}, at least that"
        )
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN: empty, expected the name of a data set")
    steps = cfg.SOLVER.STEPS
    if not all(isinstance(step, int) for step in steps) or list(steps) != sorted(set(steps)):
        raise InputError(f"SOLVER.STEPS: {steps}, expected iterations, each later than the last")


def _get(cfg: CfgNode, key: str) -> str | float:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
