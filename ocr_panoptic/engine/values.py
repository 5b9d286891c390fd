"""Ranges of config values that would otherwise fail deep inside a run."""

from __future__ import annotations

from importlib.util import find_spec

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, PanopticFPN

from ocr_panoptic.errors import InputError
from ocr_panoptic.modeling.context import CONTEXT_REGISTRY
from ocr_panoptic.random_state import MAX_SEED

from .model_values import NORMS, check_input_values, check_model_values
from .precision import AMP_DTYPES
from .value_rules import (
    are_integers,
    are_numbers,
    check_choice,
    check_kinds,
    check_range,
    require,
    value_of,
)
from .writers import import_wandb

__all__ = ["check_all_keys", "check_values"]

# With weights that are learnt: the one in front of the sum starts at zero.
_CONTEXT_NORMS = tuple(norm for norm in NORMS if norm not in ("", "FrozenBN"))
_STAGES = ("res2", "res3", "res4", "res5")
_ORDERS = (["global", "local"], ["local", "global"], ["global"], ["local"])
# No map has more positions along a side, and unmasked ones are padded to a multiple.
_MAX_PARTITION = 4096
_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")
# Of results.
_TASKS = ("panoptic_seg", "sem_seg", "bbox", "segm", "keypoints", "box_proposals")
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
    "SOLVER.BIAS_LR_FACTOR": (0, None),
    "SOLVER.MOMENTUM": (0, None),
    "SOLVER.WEIGHT_DECAY": (0, None),
    "SOLVER.WEIGHT_DECAY_NORM": (0, None),
    "SOLVER.GAMMA": (0, None),
    "SOLVER.WARMUP_FACTOR": (0, None),
    "SOLVER.NUM_DECAYS": (1, None),
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
    check_all_keys(cfg)
    check_choice(cfg, "MODEL.SEM_SEG_HEAD.OCR.NORM", NORMS)
    for key, (least, greatest) in _RANGES.items():
        check_range(cfg, key, least, greatest)
    check_choice(cfg, "SOLVER.AMP.DTYPE", AMP_DTYPES)
    check_choice(cfg, "DATALOADER.SAMPLER_TRAIN", _SAMPLERS)
    for key in ("ALLOW_MISSING", "ALLOW_UNUSED"):
        prefixes = cfg.MODEL[key]
        if not all(isinstance(prefix, str) and prefix for prefix in prefixes):
            raise InputError(f"MODEL.{key}: {prefixes}, expected prefixes of keys of weights")
    check_model_values(cfg)
    check_input_values(cfg, train=train)
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
    _check_evaluation(cfg, train=train)
    if train:
        _check_solver(cfg, processes)
        _check_wandb(cfg)


def check_all_keys(cfg: CfgNode) -> None:
    """Check what no tool that reads a config can go without: kinds of values, and no pickles.

    Args:
        cfg: a whole config.

    Raises:
        InputError: names the key, its value and what was expected.
    """
    check_kinds(cfg)
    if cfg.MODEL.LOAD_PROPOSALS:
        # A config is no program: whoever takes one from others must not run theirs.
        raise InputError(
            "MODEL.LOAD_PROPOSALS: True, but precomputed proposals (DATASETS.PROPOSAL_FILES_*) are "
            "pickles, which could run any code; expected False"
        )


def _check_backbone_context(cfg: CfgNode) -> None:
    key = "MODEL.RESNETS.CONTEXT"
    if not _names_a_scheme(cfg, key, "BACKBONE", "build_context_resnet_fpn_backbone"):
        return
    check_choice(cfg, f"{key}.NORM", _CONTEXT_NORMS)
    check_choice(cfg, f"{key}.STAGE", _STAGES)
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
            f"{key}.NAME: '{value_of(cfg, f'{key}.NAME')}' with MODEL.META_ARCHITECTURE "
            f"{cfg.MODEL.META_ARCHITECTURE}, which has no semantic head, expected "
            "PaddingAwarePanopticFPN, or MODEL.RESNETS.CONTEXT.NAME"
        )
    check_choice(cfg, f"{key}.NORM", NORMS)
    for name in ("CHANNELS", "STRIDE"):
        check_range(cfg, f"{key}.{name}", 1, None)
    check_range(cfg, f"{key}.REGION_LOSS_WEIGHT", 0, None)
    _check_scheme(cfg, key)


def _check_operators(cfg: CfgNode) -> None:
    """See that nothing is asked for of which only a compiled Detectron2 is capable."""
    if find_spec("detectron2._C") is not None:
        return
    wanted = {
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE),
        "MODEL.PROPOSAL_GENERATOR.NAME": cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RRPN",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIAlignRotated",
    }
    for key in (key for key, needed in wanted.items() if needed):
        raise InputError(
            f"{key}: {value_of(cfg, key)} needs compiled operators, expected another value, or a "
            "Detectron2 that has them (README, Installation)"
        )


def _schemes() -> list[str]:
    return sorted(name for name, _ in CONTEXT_REGISTRY)


def _names_a_scheme(cfg: CfgNode, key: str, part: str, reader: str) -> bool:
    """Say whether a context is named, and see that it exists and that ``reader`` is there."""
    check_choice(cfg, f"{key}.NAME", ("", *_schemes()))
    name, found = value_of(cfg, f"{key}.NAME"), value_of(cfg, f"MODEL.{part}.NAME")
    if name and found != reader:
        raise InputError(f"{key}.NAME: '{name}' with MODEL.{part}.NAME {found}, expected {reader}")
    return bool(name)


def _check_scheme(cfg: CfgNode, key: str) -> None:
    """Check the keys that any scheme may read."""
    context = value_of(cfg, key)
    check_range(cfg, f"{key}.DROPOUT", 0, 1)
    for name in ("KEY_CHANNELS", "VALUE_CHANNELS"):
        check_range(cfg, f"{key}.{name}", 0, None)
    check_choice(cfg, f"{key}.OUTPUT_NORM", NORMS)
    for name in ("NUM_REGIONS", "RECURRENCE", "GROUPS", "LAYERS", "HEADS"):
        check_range(cfg, f"{key}.{name}", 1, None)
    for name in ("BINS", "RATES"):
        numbers = context[name]
        if not are_integers(numbers) or not numbers or min(numbers) < 1:
            raise InputError(f"{key}.{name}: {numbers}, expected integers from 1")
    partitions, order = context.PARTITIONS, context.ORDER
    fits = are_integers(partitions) and len(partitions) == 2
    if not fits or not all(0 < number <= _MAX_PARTITION for number in partitions):
        raise InputError(
            f"{key}.PARTITIONS: {partitions}, expected two integers from 1 to {_MAX_PARTITION}"
        )
    if list(order) not in _ORDERS:
        raise InputError(f"{key}.ORDER: {order}, expected one or both of 'global', 'local'")


def _check_evaluation(cfg: CfgNode, *, train: bool) -> None:
    # Detectron2's own tool does that behind a training; here it would be left out without a word.
    expected = "False: there is no test-time augmentation here"
    require(not cfg.TEST.AUG.ENABLED, cfg, "TEST.AUG.ENABLED", expected)
    key, results, names = "TEST.EXPECTED_RESULTS", cfg.TEST.EXPECTED_RESULTS, cfg.DATASETS.TEST
    fine = all(
        isinstance(row, list | tuple)
        and len(row) == 4
        and all(isinstance(name, str) for name in row[:2])
        and are_numbers(row[2:])
        and row[0] in _TASKS
        for row in results
    )
    require(fine, cfg, key, f"[[task, metric, value, tolerance], ...], task {' or '.join(_TASKS)}")
    # Of several, results are by data set first; a prediction has none.
    if results and (len(names) > 1 or (train and not names)):
        raise InputError(f"{key}: {results} with DATASETS.TEST {names}, expected one data set")


def _check_wandb(cfg: CfgNode) -> None:
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
        check_range(cfg, f"SOLVER.{key}", least, None)
    check_choice(cfg, "SOLVER.NONFINITE", ("stop", "skip"))
    if cfg.SOLVER.REFERENCE_BATCH and cfg.SOLVER.REFERENCE_WORLD_SIZE:
        raise InputError(
            f"SOLVER.REFERENCE_WORLD_SIZE: {cfg.SOLVER.REFERENCE_WORLD_SIZE} with REFERENCE_BATCH "
            f"{cfg.SOLVER.REFERENCE_BATCH}: both scale the schedule, expected one of them to be 0"
        )
    check_choice(cfg, "SOLVER.LR_SCHEDULER_NAME", _SCHEDULERS)
    check_choice(cfg, "SOLVER.WARMUP_METHOD", ("linear", "constant"))
    check_choice(cfg, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", ("value", "norm"))
    for key in ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "SOLVER.CLIP_GRADIENTS.NORM_TYPE"):
        require(value_of(cfg, key) > 0, cfg, key, "more than 0")
    if cfg.SOLVER.NESTEROV:
        require(cfg.SOLVER.MOMENTUM > 0, cfg, "SOLVER.MOMENTUM", "more than 0 with NESTEROV True")
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR":
        # Detectron2 divides the last by the first.
        check_range(cfg, "SOLVER.BASE_LR", 1e-12, None)
        check_range(cfg, "SOLVER.BASE_LR_END", 0, cfg.SOLVER.BASE_LR)
    steps = cfg.SOLVER.STEPS
    fine = are_integers(steps) and list(steps) == sorted(set(steps))
    if not fine or (steps and steps[0] < 0):
        raise InputError(f"SOLVER.STEPS: {steps}, expected iterations, each later than the last")
