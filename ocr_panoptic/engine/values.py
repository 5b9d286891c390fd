"""Ranges of config values that would otherwise fail deep inside a run."""

from __future__ import annotations

from importlib.util import find_spec

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, PanopticFPN

from ocr_panoptic.errors import InputError
from ocr_panoptic.modeling.context import CONTEXT_REGISTRY
from ocr_panoptic.random_state import MAX_SEED

from .precision import AMP_DTYPES
from .writers import import_wandb

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
_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")
# Key -> least value, greatest value.
_RANGES = {
    "MODEL.SEM_SEG_HEAD.OCR.CHANNELS": (1, None),
    "MODEL.SEM_SEG_HEAD.OCR.KEY_CHANNELS": (1, None),
    "MODEL.SEM_SEG_HEAD.OCR.TRANSFORM_LAYERS": (1, None),
    "MODEL.SEM_SEG_HEAD.OCR.DROPOUT": (0, 1),
    "MODEL.SEM_SEG_HEAD.OCR.AUX_LOSS_WEIGHT": (0, None),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": (0, None),
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": (0, None),
    "SOLVER.MAX_ITER": (1, None),
    "SOLVER.WARMUP_ITERS": (0, None),
    "SOLVER.CHECKPOINT_PERIOD": (1, None),
    "SOLVER.BASE_LR": (0, None),
    "DATALOADER.NUM_WORKERS": (0, None),
    "DATALOADER.RANDOM_SUBSET_RATIO": (0, 1),
    "DATALOADER.REPEAT_THRESHOLD": (0, None),
    # A negative one is drawn.
    "SEED": (-MAX_SEED, MAX_SEED),
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
        _check_range(cfg, key, least, greatest)
    _check_choice(cfg, "MODEL.SEM_SEG_HEAD.OCR.CHECKPOINT_ACTIVATIONS", (True, False))
    _check_choice(cfg, "MODEL.TRUST_CHECKPOINT", (True, False))
    _check_choice(cfg, "SOLVER.AMP.ENABLED", (True, False))
    _check_choice(cfg, "SOLVER.AMP.DTYPE", AMP_DTYPES)
    _check_choice(cfg, "DATALOADER.SAMPLER_TRAIN", _SAMPLERS)
    _check_choice(cfg, "DATALOADER.ASPECT_RATIO_GROUPING", (True, False))
    for key in ("ALLOW_MISSING", "ALLOW_UNUSED"):
        prefixes = cfg.MODEL[key]
        fine = isinstance(prefixes, list | tuple)
        if not fine or not all(isinstance(prefix, str) and prefix for prefix in prefixes):
            raise InputError(f"MODEL.{key}: {prefixes}, expected prefixes of keys of weights")
    _check_backbone_context(cfg)
    _check_head_context(cfg)
    _check_operators(cfg)
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
        _check_wandb(cfg)


def _check_backbone_context(cfg: CfgNode) -> None:
    key, context = "MODEL.RESNETS.CONTEXT", cfg.MODEL.RESNETS.CONTEXT
    if not _names_a_scheme(cfg, key, "BACKBONE", "build_context_resnet_fpn_backbone"):
        return
    _check_choice(cfg, f"{key}.NORM", _CONTEXT_NORMS)
    _check_choice(cfg, f"{key}.STAGE", _STAGES)
    if type(context.BLOCK) is not int:
        raise InputError(f"{key}.BLOCK: {context.BLOCK}, expected an integer")
    _check_scheme(cfg, key)


def _check_head_context(cfg: CfgNode) -> None:
    key, head = "MODEL.SEM_SEG_HEAD.CONTEXT", cfg.MODEL.SEM_SEG_HEAD.NAME
    if head == "ContextSemSegFPNHead" and not cfg.MODEL.SEM_SEG_HEAD.CONTEXT.NAME:
        raise InputError(f"{key}.NAME: '' with {head}, expected one of {' '.join(_schemes())}")
    if not _names_a_scheme(cfg, key, "SEM_SEG_HEAD", "ContextSemSegFPNHead"):
        return
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if issubclass(architecture, GeneralizedRCNN) and not issubclass(architecture, PanopticFPN):
        raise InputError(
            f"{key}.NAME: '{_get(cfg, f'{key}.NAME')}' with MODEL.META_ARCHITECTURE "
            f"{cfg.MODEL.META_ARCHITECTURE}, which has no semantic head, expected "
            "PaddingAwarePanopticFPN, or MODEL.RESNETS.CONTEXT.NAME"
        )
    _check_choice(cfg, f"{key}.NORM", _NORMS)
    for name in ("CHANNELS", "STRIDE"):
        _check_range(cfg, f"{key}.{name}", 1, None, integer=True)
    _check_range(cfg, f"{key}.REGION_LOSS_WEIGHT", 0, None)
    _check_choice(cfg, f"{key}.CHECKPOINT_ACTIVATIONS", (True, False))
    _check_scheme(cfg, key)


def _check_operators(cfg: CfgNode) -> None:
    """See that nothing is asked for of which only a compiled Detectron2 is capable."""
    if find_spec("detectron2._C") is not None:
        return
    wanted = {
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE or ()),
        "MODEL.PROPOSAL_GENERATOR.NAME": cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RRPN",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIAlignRotated",
    }
    for key in (key for key, needed in wanted.items() if needed):
        raise InputError(
            f"{key}: {_get(cfg, key)} needs compiled operators, expected another value, or a "
            "Detectron2 that has them (README, Installation)"
        )


def _schemes() -> list[str]:
    return sorted(name for name, _ in CONTEXT_REGISTRY)


def _names_a_scheme(cfg: CfgNode, key: str, part: str, reader: str) -> bool:
    """Say whether a context is named, and see that it exists and that ``reader`` is there."""
    _check_choice(cfg, f"{key}.NAME", ("", *_schemes()))
    name, found = _get(cfg, f"{key}.NAME"), _get(cfg, f"MODEL.{part}.NAME")
    if name and found != reader:
        raise InputError(f"{key}.NAME: '{name}' with MODEL.{part}.NAME {found}, expected {reader}")
    return bool(name)


def _check_scheme(cfg: CfgNode, key: str) -> None:
    """Check the keys that any scheme may read."""
    context = _get(cfg, key)
    for name in ("SUBSAMPLE", "MASK_PADDING"):
        _check_choice(cfg, f"{key}.{name}", (True, False))
    _check_range(cfg, f"{key}.DROPOUT", 0, 1)
    for name in ("KEY_CHANNELS", "VALUE_CHANNELS"):
        _check_range(cfg, f"{key}.{name}", 0, None, integer=True)
    _check_choice(cfg, f"{key}.OUTPUT_NORM", _NORMS)
    for name in ("NUM_REGIONS", "RECURRENCE", "GROUPS", "LAYERS", "HEADS"):
        _check_range(cfg, f"{key}.{name}", 1, None, integer=True)
    for name in ("BINS", "RATES"):
        numbers = context[name]
        if not _are_integers(numbers) or not numbers or min(numbers) < 1:
            raise InputError(f"{key}.{name}: {numbers}, expected integers from 1")
    partitions, order = context.PARTITIONS, context.ORDER
    fits = _are_integers(partitions) and len(partitions) == 2
    if not fits or not all(0 < number <= _MAX_PARTITION for number in partitions):
        raise InputError(
            f"{key}.PARTITIONS: {partitions}, expected two integers from 1 to {_MAX_PARTITION}"
        )
    if not isinstance(order, list | tuple) or list(order) not in _ORDERS:
        raise InputError(f"{key}.ORDER: {order}, expected one or both of 'global', 'local'")


def _are_integers(numbers: object) -> bool:
    return isinstance(numbers, list | tuple) and all(type(number) is int for number in numbers)


def _check_range(
    cfg: CfgNode, key: str, least: float, greatest: float | None, *, integer: bool = False
) -> None:
    value = _get(cfg, key)
    kinds = int if integer else int | float
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise InputError(f"{key}: {value}, expected {'an integer' if integer else 'a number'}")
    if not value >= least or (greatest is not None and value > greatest):
        to = "or more" if greatest is None else f"to {greatest}"
        raise InputError(f"{key}: {value}, expected {least} {to}")


def _check_choice(cfg: CfgNode, key: str, choices: tuple) -> None:
    value = _get(cfg, key)
    # None can override a value of any type.
    if type(value) is not type(choices[0]) or value not in choices:
        names = " ".join(str(choice) for choice in choices if choice != "")
        nothing = ", or ''" if "" in choices else ""
        raise InputError(f"{key}: '{value}', expected one of {names}{nothing}")


def _check_wandb(cfg: CfgNode) -> None:
    _check_choice(cfg, "WANDB.ENABLED", (True, False))
    for key in ("PROJECT", "NAME"):
        if not isinstance(cfg.WANDB[key], str):
            raise InputError(f"WANDB.{key}: {cfg.WANDB[key]}, expected text")
    if cfg.WANDB.ENABLED:
        if not cfg.WANDB.PROJECT:
            raise InputError("WANDB.PROJECT: '', expected the name of a project")
        import_wandb()


def _check_solver(cfg: CfgNode, processes: int) -> None:
    images = cfg.SOLVER.IMS_PER_BATCH
    if images < 1 or images % processes:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH: {images} images for {processes} processes, "
            f"expected a multiple of {processes}, at least that"
        )
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN: empty, expected the name of a data set")
    for key, least in (("REFERENCE_BATCH", 0), ("REFERENCE_WORLD_SIZE", 0), ("NONFINITE_SKIPS", 1)):
        _check_range(cfg, f"SOLVER.{key}", least, None, integer=True)
    _check_choice(cfg, "SOLVER.NONFINITE", ("stop", "skip"))
    if cfg.SOLVER.REFERENCE_BATCH and cfg.SOLVER.REFERENCE_WORLD_SIZE:
        raise InputError(
            f"SOLVER.REFERENCE_WORLD_SIZE: {cfg.SOLVER.REFERENCE_WORLD_SIZE} with REFERENCE_BATCH "
            f"{cfg.SOLVER.REFERENCE_BATCH}: both scale the schedule, expected one of them to be 0"
        )
    _check_choice(cfg, "SOLVER.LR_SCHEDULER_NAME", _SCHEDULERS)
    _check_choice(cfg, "SOLVER.WARMUP_METHOD", ("linear", "constant"))
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR":
        # Detectron2 divides the last by the first.
        _check_range(cfg, "SOLVER.BASE_LR", 1e-12, None)
        _check_range(cfg, "SOLVER.BASE_LR_END", 0, cfg.SOLVER.BASE_LR)
    steps = cfg.SOLVER.STEPS
    if not all(isinstance(step, int) for step in steps) or list(steps) != sorted(set(steps)):
        raise InputError(f"SOLVER.STEPS: {steps}, expected iterations, each later than the last")


def _get(cfg: CfgNode, key: str) -> str | float:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
