"""Values that Detectron2's model, its input and its evaluation take, as tables and a few rules.

Its own constructors assert them, or do not: then a run fails in its first iteration, or evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
    SemanticSegmentor,
)
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

from ocr_panoptic.errors import InputError

from .value_rules import are_integers, are_numbers, check_choice, check_range, require, value_of

__all__ = ["NORMS", "check_input_values", "check_model_values"]

NORMS = ("", "BN", "SyncBN", "GN", "LN", "FrozenBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
"""Norms that Detectron2 has."""

_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
_POOLERS = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")
_CHOICES = {
    "INPUT.FORMAT": ("RGB", "BGR", "L", "YUV-BT.601"),
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.FPN.NORM": NORMS,
    "MODEL.RESNETS.DEPTH": (18, 34, 50, 101, 152),
    "MODEL.RESNETS.NORM": NORMS,
    "MODEL.RESNETS.RES5_DILATION": (1, 2),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.NORM": NORMS,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _POOLERS,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": _POOLERS,
    "MODEL.ROI_MASK_HEAD.NORM": NORMS,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": _POOLERS,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _BOX_LOSSES,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": (1, 2, 4, 8, 16, 32),
    "MODEL.SEM_SEG_HEAD.NORM": NORMS,
}
# Key -> least value, greatest value.
_RANGES = {
    # 0 leaves images as they are.
    "INPUT.MIN_SIZE_TEST": (0, None),
    "INPUT.MAX_SIZE_TEST": (1, None),
    "MODEL.BACKBONE.FREEZE_AT": (0, 5),
    "MODEL.FPN.OUT_CHANNELS": (1, None),
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": (0, 1),
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": (0, None),
    "MODEL.RESNETS.NUM_GROUPS": (1, None),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": (1, None),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": (1, None),
    "MODEL.RESNETS.WIDTH_PER_GROUP": (1, None),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": (1, None),
    "MODEL.ROI_BOX_HEAD.FC_DIM": (1, None),
    "MODEL.ROI_BOX_HEAD.NUM_CONV": (0, None),
    "MODEL.ROI_BOX_HEAD.NUM_FC": (0, None),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": (1, None),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": (0, None),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": (1, None),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": (0, 1),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": (0, 1),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": (1, None),
    "MODEL.ROI_MASK_HEAD.CONV_DIM": (1, None),
    "MODEL.ROI_MASK_HEAD.NUM_CONV": (0, None),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": (1, None),
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": (0, None),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": (1, None),
    "MODEL.RPN.NMS_THRESH": (0, 1),
    "MODEL.RPN.POSITIVE_FRACTION": (0, 1),
    "MODEL.RPN.POST_NMS_TOPK_TEST": (1, None),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": (1, None),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": (1, None),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": (1, None),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": (1, None),
    # -1 keeps all.
    "TEST.DETECTIONS_PER_IMAGE": (-1, None),
}
# Parts with a NORM, and the channels that it normalises.
_NORMALISED = {
    "MODEL.FPN": "OUT_CHANNELS",
    "MODEL.ROI_BOX_HEAD": "CONV_DIM",
    "MODEL.ROI_MASK_HEAD": "CONV_DIM",
    "MODEL.SEM_SEG_HEAD": "CONVS_DIM",
}
# Groups of Detectron2's GN.
_GROUPS = 32
_STAGES = ("res2", "res3", "res4", "res5")
# Backbone -> levels that its FPN adds above the last stage's.
_FPN_BACKBONES = {
    "build_context_resnet_fpn_backbone": 1,
    "build_resnet_fpn_backbone": 1,
    "build_retinanet_resnet_fpn_backbone": 2,
}


def check_model_values(cfg: CfgNode) -> None:
    """Check what a model of Detectron2's parts is built from, and evaluated with.

    Args:
        cfg: of values of the right kind; its architecture and semantic head are registered.

    Raises:
        InputError: names the key, its value and what was expected.
    """
    for key, choices in _CHOICES.items():
        check_choice(cfg, key, choices)
    for key, (least, greatest) in _RANGES.items():
        check_range(cfg, key, least, greatest)
    for part, name in _NORMALISED.items():
        if value_of(cfg, f"{part}.NORM") == "GN":
            channels = value_of(cfg, f"{part}.{name}")
            expected = f"a multiple of the {_GROUPS} groups of {part}.NORM GN"
            require(channels % _GROUPS == 0, cfg, f"{part}.{name}", expected)
    offset = cfg.MODEL.ANCHOR_GENERATOR.OFFSET
    require(0 <= offset < 1, cfg, "MODEL.ANCHOR_GENERATOR.OFFSET", "0 to less than 1")
    for part in ("RPN", "ROI_HEADS", "RETINANET"):
        _check_matcher(cfg, f"MODEL.{part}")
    _check_pixels(cfg)
    if "resnet" in cfg.MODEL.BACKBONE.NAME:
        _check_resnet(cfg)
    _check_maps(cfg)


def check_input_values(cfg: CfgNode, *, train: bool) -> None:
    """Check how images are read for a training.

    Args:
        cfg: of values of the right kind.
        train: whether there is going to be one.

    Raises:
        InputError: names the key, its value and what was expected.
    """
    if not train:
        return
    sizes, crop = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP
    fine = are_integers(sizes) and len(sizes) > 0 and min(sizes) >= 0
    require(fine, cfg, "INPUT.MIN_SIZE_TRAIN", "integers from 0")
    check_choice(cfg, "INPUT.MIN_SIZE_TRAIN_SAMPLING", ("choice", "range"))
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        expected = "two sizes with MIN_SIZE_TRAIN_SAMPLING range, the lesser first"
        fine = len(sizes) == 2 and sizes[0] <= sizes[1]
        require(fine, cfg, "INPUT.MIN_SIZE_TRAIN", expected)
    check_range(cfg, "INPUT.MAX_SIZE_TRAIN", 1, None)
    check_choice(cfg, "INPUT.RANDOM_FLIP", ("none", "horizontal", "vertical"))
    check_choice(cfg, "INPUT.MASK_FORMAT", ("polygon", "bitmask"))
    if crop.ENABLED:
        check_choice(
            cfg,
            "INPUT.CROP.TYPE",
            ("relative_range", "relative", "absolute", "absolute_range"),
        )
        if crop.TYPE.startswith("relative"):
            fine = are_numbers(crop.SIZE) and all(0 < size <= 1 for size in crop.SIZE)
            expected = f"two parts of the image, up to 1.0, with CROP.TYPE {crop.TYPE}"
        else:
            fine = are_integers(crop.SIZE) and all(size >= 1 for size in crop.SIZE)
            expected = f"two numbers of pixels with CROP.TYPE {crop.TYPE}"
        if crop.TYPE == "absolute_range":
            fine = fine and list(crop.SIZE) == sorted(crop.SIZE)
            expected += ", the lesser first"
        require(fine and len(crop.SIZE) == 2, cfg, "INPUT.CROP.SIZE", expected)


def _check_matcher(cfg: CfgNode, part: str) -> None:
    key = f"{part}.IOU_THRESHOLDS"
    thresholds, labels = value_of(cfg, key), value_of(cfg, f"{part}.IOU_LABELS")
    fine = are_numbers(thresholds) and all(0 < threshold <= 1 for threshold in thresholds)
    expected = "numbers above 0 up to 1, each not less than the last"
    require(fine and list(thresholds) == sorted(thresholds), cfg, key, expected)
    fine = all(label in (-1, 0, 1) for label in labels) and len(labels) == len(thresholds) + 1
    expected = f"{len(thresholds) + 1} of 0, -1 and 1, one more than IOU_THRESHOLDS"
    require(fine, cfg, f"{part}.IOU_LABELS", expected)


def _check_pixels(cfg: CfgNode) -> None:
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        numbers = value_of(cfg, key)
        expected = f"{channels} numbers, as INPUT.FORMAT {cfg.INPUT.FORMAT} has channels"
        require(are_numbers(numbers) and len(numbers) == channels, cfg, key, expected)
    require(min(cfg.MODEL.PIXEL_STD) > 0, cfg, "MODEL.PIXEL_STD", "numbers above 0")


def _check_resnet(cfg: CfgNode) -> None:
    key, resnet = "MODEL.RESNETS", cfg.MODEL.RESNETS
    _check_names(cfg, f"{key}.OUT_FEATURES", ("stem", *_STAGES))
    deformed = resnet.DEFORM_ON_PER_STAGE
    fine = len(deformed) == len(_STAGES) and all(isinstance(on, bool) for on in deformed)
    require(fine, cfg, f"{key}.DEFORM_ON_PER_STAGE", "four of True and False")
    if resnet.DEPTH > 34:
        return
    with_depth = f"with DEPTH {resnet.DEPTH}, whose blocks have no other"
    for name, only in (("RES2_OUT_CHANNELS", 64), ("NUM_GROUPS", 1), ("RES5_DILATION", 1)):
        require(resnet[name] == only, cfg, f"{key}.{name}", f"{only} {with_depth}")
    require(not any(deformed), cfg, f"{key}.DEFORM_ON_PER_STAGE", f"none True {with_depth}")


def _check_maps(cfg: CfgNode) -> None:
    """Check that each part of the model finds the feature maps that it reads."""
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    more = _FPN_BACKBONES.get(cfg.MODEL.BACKBONE.NAME)
    maps = None
    if more is not None:
        stages = cfg.MODEL.FPN.IN_FEATURES
        _check_names(cfg, "MODEL.FPN.IN_FEATURES", cfg.MODEL.RESNETS.OUT_FEATURES)
        levels = [int(stage[-1]) if stage in _STAGES else 0 for stage in stages]
        fine = levels == list(range(levels[0], levels[0] + len(levels)))
        require(fine, cfg, "MODEL.FPN.IN_FEATURES", "stages one behind the other, such as res2")
        maps = [f"p{level}" for level in range(levels[0], levels[-1] + more + 1)]
    if issubclass(architecture, GeneralizedRCNN):
        if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN":
            _check_names(cfg, "MODEL.RPN.IN_FEATURES", maps)
            _check_anchors(cfg)
        _check_names(cfg, "MODEL.ROI_HEADS.IN_FEATURES", maps)
    if issubclass(architecture, PanopticFPN | SemanticSegmentor):
        _check_names(cfg, "MODEL.SEM_SEG_HEAD.IN_FEATURES", maps)
        _check_stride(cfg)


def _check_names(cfg: CfgNode, key: str, known: Sequence[str] | None) -> None:
    """Check a list of maps, against those that there are unless they are not known."""
    names = value_of(cfg, key)
    fine = len(names) > 0 and all(isinstance(name, str) for name in names)
    if known is None:
        require(fine, cfg, key, "names of feature maps")
    else:
        fine = fine and set(names) <= set(known)
        require(fine, cfg, key, f"some of {' '.join(known)}")


def _check_anchors(cfg: CfgNode) -> None:
    maps = len(cfg.MODEL.RPN.IN_FEATURES)
    for name in ("SIZES", "ASPECT_RATIOS"):
        key = f"MODEL.ANCHOR_GENERATOR.{name}"
        given = value_of(cfg, key)
        # Detectron2 takes one list for all maps.
        lists = [given] if given and are_numbers(given) else given
        fine = len(lists) in (1, maps)
        fine = fine and all(are_numbers(some) and some and min(some) > 0 for some in lists)
        counts = f"1 or {maps}" if maps > 1 else "1"
        require(fine, cfg, key, f"{counts} lists of numbers above 0, as RPN.IN_FEATURES has maps")


def _check_stride(cfg: CfgNode) -> None:
    head, stride = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
    levels = [re.fullmatch(r"(?:p|res)(\d)", name) for name in head.IN_FEATURES]
    if not all(levels) or not issubclass(SEM_SEG_HEADS_REGISTRY.get(head.NAME), SemSegFPNHead):
        return
    finest = 2 ** min(int(level[1]) for level in levels)
    if stride > finest:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE: {stride}, expected {finest} or less, "
            f"as the finest of IN_FEATURES {list(head.IN_FEATURES)} has"
        )
