"""From a command line to a checked config."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import default_argument_parser, default_setup
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    StandardROIHeads,
)
from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ocr_panoptic import add_ocr_panoptic_config
from ocr_panoptic.data.checks import check_dataset_files, check_num_classes
from ocr_panoptic.data.custom import (
    derive_custom_datasets,
    explicit_num_classes,
    register_custom_datasets,
    set_num_classes,
)
from ocr_panoptic.errors import InputError, fail
from ocr_panoptic.evaluation.build import check_evaluation
from ocr_panoptic.files import require_folder

from .checkpoint import Checkpointer
from .config_mistakes import check_config_file, check_overrides, reason_of_merge
from .output_folder import tell_once_of_a_lost_log
from .process_arguments import add_process_arguments
from .progress import quiet_console
from .value_rules import value_of
from .values import check_all_keys, check_values

__all__ = ["TRUST_CHECKPOINT", "argument_parser", "check_config", "load_config", "prepare_run"]


TRUST_CHECKPOINT = {
    "action": "store_const",
    "const": ["MODEL.TRUST_CHECKPOINT", "True"],
    "default": [],
    "help": "load checkpoints that could run any code too (MODEL.TRUST_CHECKPOINT)",
}
"""Of --trust-checkpoint, for argparse: its value is what it adds to the overrides of a config."""

# Context schemes with a norm over the regions of a batch.
_REGION_NORMS = ("gt_ocr", "ocr", "ocr_acf_relation", "ocr_da_relation", "ocr_unsupervised")

# What yacs raises for a key or a value that is none of the config's.
_UNREADABLE = (AssertionError, AttributeError, KeyError, TypeError, ValueError)


def argument_parser() -> argparse.ArgumentParser:
    """Return Detectron2's argument parser, with options of this project.

    Without ``--dist-url`` the processes of a machine meet at a file of the job's own. A mistake in
    the arguments is an InputError, one line instead of the whole usage.
    """
    parser = default_argument_parser()
    parser.error = fail
    add_process_arguments(parser)
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep the results of the evaluation (TEST.PANOPTIC.SAVE)",
    )
    parser.add_argument(
        "--num-procs",
        type=int,
        metavar="N",
        help="processes that count PQ from files (TEST.PANOPTIC.NUM_PROCS), default one per CPU",
    )
    parser.add_argument("--trust-checkpoint", **TRUST_CHECKPOINT)
    return parser


def load_config(config_file: str, overrides: list[str]) -> CfgNode:
    """Read a config file and apply ``KEY VALUE`` overrides.

    Data sets of DATASETS.CUSTOM that it uses are registered, and give it both NUM_CLASSES.
    MODEL.TRUST_CHECKPOINT is taken from the overrides alone.

    Args:
        config_file: path to a yaml config.
        overrides: keys and values in turn.

    Returns:
        The config, not frozen.

    Raises:
        InputError: if the file is missing or no config, a key is unknown, or a value has the
            wrong type, or would be read from pickles, or a data set of DATASETS.CUSTOM has a
            mistake; names the file or key.
    """
    cfg = get_cfg()
    add_ocr_panoptic_config(cfg)
    if not Path(config_file).is_file():
        raise InputError(f"--config-file {config_file}: no such file, expected a yaml config")
    check_config_file(config_file, cfg)
    check_overrides(cfg, overrides)
    for source, merge in (
        # Not Detectron2's default: a yaml that calls functions is no config.
        (config_file, lambda: cfg.merge_from_file(config_file, allow_unsafe=False)),
        ("command line", lambda: cfg.merge_from_list(overrides)),
    ):
        try:
            merge()
        except _UNREADABLE as error:
            raise InputError(f"{source}: {reason_of_merge(error)}") from error
        if source == config_file:
            # Whoever gives a file away does not say whether it is trusted.
            cfg.MODEL.TRUST_CHECKPOINT = False
    check_all_keys(cfg)
    explicit = explicit_num_classes(config_file, overrides)
    # The config that a run wrote is enough to predict with, without its data.
    register_custom_datasets(cfg, again=True, missing_ok=len(explicit) == 2)
    set_num_classes(cfg, explicit)
    return cfg


def prepare_run(
    cfg: CfgNode, args: argparse.Namespace, changes: Sequence[str] = (), *, quiet: bool = False
) -> None:
    """Start logging and random numbers, as Detectron2 does; in each process of a run.

    Args:
        cfg: checked by :func:`check_config`.
        args: logged.
        changes: lines to log as warnings.
        quiet: let only warnings reach the terminal; the log file keeps all.
    """
    rank = comm.get_rank()
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="ocr_panoptic")
    # default_setup makes these too, and finds them made: it logs the whole config at once.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    tell_once_of_a_lost_log(cfg.OUTPUT_DIR)
    if quiet:
        quiet_console()
    with contextlib.redirect_stderr(io.StringIO()):
        # Detectron2's report of the environment imports it: where there is a compiler for CUDA and
        # no GPU, an old torch prints that; for a new one see known_warnings.
        importlib.import_module("torch.utils.cpp_extension")
    default_setup(cfg, args)
    # Another process than the one that checked the config knows none yet.
    register_custom_datasets(cfg)
    for change in changes:
        logger.warning(change)


def check_config(
    cfg: CfgNode, *, train: bool, processes: int = 1, resume: bool = False
) -> list[str]:
    """Check a config before anything is built: names, values, device, files, numbers of classes.

    OUTPUT_DIR is made if all else is right.

    Args:
        cfg: what cannot work as written, but has one clear cure, is changed in place.
        train: whether DATASETS.TRAIN is going to be read.
        processes: that are going to work on it, on all machines.
        resume: whether a checkpoint in OUTPUT_DIR, if there is one, takes the place of
            MODEL.WEIGHTS.

    Returns:
        One line for each change, and for each thing to know about the data sets.

    Raises:
        InputError: names the key or file, its value and what was expected.
    """
    _check_names(cfg)
    check_values(cfg, train=train, processes=processes)
    check_evaluation(cfg)
    changes = _check_device(cfg, processes, train=train)
    if train and not (resume and Checkpointer(nn.Identity(), cfg.OUTPUT_DIR).has_checkpoint()):
        _check_frozen(cfg)
    register_custom_datasets(cfg)
    if cfg.DATASETS.CUSTOM:
        # Deriving takes a while: what can be told before is told before.
        check_num_classes(cfg)
    changes += derive_custom_datasets(cfg, train=train)
    for name in (*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST):
        check_dataset_files(name)
    check_num_classes(cfg)
    _check_keypoints(cfg, train=train)
    if train:
        _check_one_region(cfg, processes)
    require_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    return changes


def _check_names(cfg: CfgNode) -> None:
    for key, registry in (
        ("MODEL.META_ARCHITECTURE", META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", BACKBONE_REGISTRY),
        ("MODEL.PROPOSAL_GENERATOR.NAME", PROPOSAL_GENERATOR_REGISTRY),
        ("MODEL.ROI_HEADS.NAME", ROI_HEADS_REGISTRY),
        ("MODEL.SEM_SEG_HEAD.NAME", SEM_SEG_HEADS_REGISTRY),
        ("MODEL.ANCHOR_GENERATOR.NAME", ANCHOR_GENERATOR_REGISTRY),
        ("MODEL.RPN.HEAD_NAME", RPN_HEAD_REGISTRY),
        ("MODEL.ROI_BOX_HEAD.NAME", ROI_BOX_HEAD_REGISTRY),
        ("MODEL.ROI_MASK_HEAD.NAME", ROI_MASK_HEAD_REGISTRY),
        ("MODEL.ROI_KEYPOINT_HEAD.NAME", ROI_KEYPOINT_HEAD_REGISTRY),
    ):
        name = value_of(cfg, key)
        if key == "MODEL.ROI_BOX_HEAD.NAME" and not name and not _has_box_head(cfg):
            continue
        known = [entry for entry, _ in registry]
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3) or sorted(known)
            raise InputError(f"{key}: '{name}' is not registered, expected {' or '.join(close)}")


def _has_box_head(cfg: CfgNode) -> bool:
    """Say whether the ROI heads, whose name is right, have a box head of its own name."""
    return issubclass(ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME), StandardROIHeads)


def _check_keypoints(cfg: CfgNode, *, train: bool) -> None:
    if not cfg.MODEL.KEYPOINT_ON:
        return
    for name in (*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST):
        if MetadataCatalog.get(name).get("keypoint_names") is None:
            raise InputError(
                f"MODEL.KEYPOINT_ON: True, but data set {name} has no keypoints, expected False"
            )


def _check_one_region(cfg: CfgNode, processes: int) -> None:
    """Refuse what torch refuses: batch norm in training over a single value of one image."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if "Panoptic" not in cfg.MODEL.META_ARCHITECTURE:
        return
    part = {"OCRSemSegFPNHead": "OCR", "ContextSemSegFPNHead": "CONTEXT"}.get(head.NAME)
    if part is None:
        return
    if part == "CONTEXT" and head.CONTEXT.NAME == "ppm" and 1 in head.CONTEXT.BINS:
        reason = "PPM averages an image to one value"
    elif head.NUM_CLASSES == 1 and (part == "OCR" or head.CONTEXT.NAME in _REGION_NORMS):
        reason = "data without stuff has one region in an image"
    else:
        return
    norm, images = head[part].NORM, cfg.SOLVER.IMS_PER_BATCH
    if norm.endswith("BN") and (images if "SyncBN" in norm else images // processes) == 1:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH: {cfg.SOLVER.IMS_PER_BATCH} for {processes} processes, but "
            f"{reason}, and MODEL.SEM_SEG_HEAD.{part}.NORM {norm} needs two; expected more "
            f"images, or {part}.NORM GN"
        )


def _check_frozen(cfg: CfgNode) -> None:
    """Refuse to freeze random weights: there is more than one way to train from scratch."""
    model = cfg.MODEL
    if model.WEIGHTS or "resnet" not in model.BACKBONE.NAME:
        return
    norm, stages = model.RESNETS.NORM, model.BACKBONE.FREEZE_AT
    if norm == "FrozenBN" or (isinstance(stages, int) and stages > 0):
        raise InputError(
            f"MODEL.WEIGHTS: '' with MODEL.RESNETS.NORM {norm} and MODEL.BACKBONE.FREEZE_AT "
            f"{stages}: random weights that are frozen are never trained; expected weights, or "
            "RESNETS.NORM BN, SyncBN or GN with FREEZE_AT 0"
        )


def _check_device(cfg: CfgNode, processes: int, *, train: bool) -> list[str]:
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"MODEL.DEVICE: '{cfg.MODEL.DEVICE}', expected cuda or cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("MODEL.DEVICE: cuda, but torch finds no CUDA device; expected cpu")
    changes = []
    if device.type == "cpu":
        if train and cfg.SOLVER.AMP.ENABLED:
            cfg.SOLVER.AMP.ENABLED = False
            changes.append(
                "SOLVER.AMP.ENABLED: Detectron2 trains with mixed precision on CUDA only, this run "
                "is in float32"
            )
        if processes > 1:
            changes += _replace_sync_batch_norm(cfg)
        elif train:
            changes += _tell_sync_batch_norm(cfg)
    return changes


def _replace_sync_batch_norm(cfg: CfgNode) -> list[str]:
    """Replace SyncBN, which torch has for CUDA only, by Detectron2's own between CPU processes."""
    changes = []
    for node, key in _sync_batch_norms(cfg):
        node.NORM = "naiveSyncBN"
        changes.append(f"{key}: SyncBN needs CUDA between processes, naiveSyncBN is used")
    return changes


def _tell_sync_batch_norm(cfg: CfgNode) -> list[str]:
    head = cfg.MODEL.SEM_SEG_HEAD
    unused = () if head.NAME == "OCRSemSegFPNHead" else ("MODEL.SEM_SEG_HEAD.OCR.",)
    if cfg.MODEL.META_ARCHITECTURE.endswith("GeneralizedRCNN"):
        unused = ("MODEL.SEM_SEG_HEAD.",)
    keys = [key for _, key in _sync_batch_norms(cfg) if not key.startswith(unused)]
    if not keys:
        return []
    return [f"{', '.join(keys)}: SyncBN of one process is BatchNorm over its own images"]


def _sync_batch_norms(cfg: CfgNode, path: str = "") -> Iterator[tuple[CfgNode, str]]:
    """Give the nodes whose NORM is SyncBN, and that key."""
    if cfg.get("NAME") == "":
        return  # of a part that is not built
    for key, value in cfg.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, CfgNode):
            yield from _sync_batch_norms(value, here)
        elif key == "NORM" and value == "SyncBN":
            yield cfg, here
