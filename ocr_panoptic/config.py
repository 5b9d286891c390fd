"""Every config key that this project adds to Detectron2's."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

__all__ = ["add_ocr_panoptic_config"]


def add_ocr_panoptic_config(cfg: CfgNode) -> None:
    """Add the keys of this project to a Detectron2 config; a stock model is built as before.

    Args:
        cfg: from :func:`detectron2.config.get_cfg`, changed in place.
    """
    # Detectron2's default is "cuda" everywhere. A config that names a device still decides.
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

    # Data sets of one's own, from a COCO panoptic json each: a list of mappings with NAME,
    # IMAGE_ROOT, PANOPTIC_JSON and PANOPTIC_ROOT. Where TRAIN or TEST names one, both NUM_CLASSES
    # come from its json, unless they are set where CUSTOM is set, or later.
    cfg.DATASETS.CUSTOM = []
    # Folder for what is derived from them, semantic labels and instances; "" for
    # $OCR_PANOPTIC_CACHE, and without that beside the json.
    cfg.DATASETS.CACHE = ""

    cfg.MODEL.SEM_SEG_HEAD.OCR = ocr = CfgNode()
    # Channels of the OCR stage: of the pixels that enter it and of the augmented pixels.
    ocr.CHANNELS = 512
    # Channels of query, key and value.
    ocr.KEY_CHANNELS = 256
    # Probability of dropping a channel of the augmented pixels in training.
    ocr.DROPOUT = 0.05
    # Norm of every convolution of the OCR stage; MODEL.SEM_SEG_HEAD.NORM is the FPN head's own.
    ocr.NORM = "SyncBN"
    # Number of 1x1-norm-ReLU in query and in key: 2 in the authors' code, 1 in the paper's text.
    ocr.TRANSFORM_LAYERS = 2
    # Weight of the loss on the original prediction, from which the soft object regions come.
    # MODEL.SEM_SEG_HEAD.LOSS_WEIGHT weighs the loss on the refined prediction.
    ocr.AUX_LOSS_WEIGHT = 0.25
    # Keep the padding of a batch out of the soft object regions. Off as in the authors' code, to
    # evaluate weights that others trained.
    ocr.MASK_PADDING = True

    cfg.MODEL.RESNETS.CONTEXT = context = CfgNode()
    # Context layer in front of a block of the ResNet: "isa", "non_local", "self_attention", or ""
    # for none. MODEL.BACKBONE.NAME build_context_resnet_fpn_backbone reads it.
    context.NAME = ""
    # Stage of that block.
    context.STAGE = "res4"
    # Index of that block in its stage; negative ones count from the last.
    context.BLOCK = -1
    # Norm of the layer's transforms and of the one, zero at the start, in front of the sum.
    # MODEL.RESNETS.NORM, which may be frozen, is the ResNet's own.
    context.NORM = "SyncBN"
    # isa: stride of the global stage's groups and size of the local stage's windows, P_h and P_w.
    context.PARTITIONS = (8, 8)
    # isa: its stages in order, one or both of "global" and "local".
    context.ORDER = ("global", "local")
    # non_local: take the maxima of 2x2 keys and values.
    context.SUBSAMPLE = True
    # Keep padding out of the attention.
    context.MASK_PADDING = True

    cfg.TEST.PANOPTIC = panoptic = CfgNode()
    # What counts PQ: "in_process", while predictions come, or from PNGs "hotcoco" or "panopticapi".
    # Their figures are equal.
    panoptic.COUNTER = "in_process"
    # Keep panoptic.json with its PNGs, and the table of classes. --save sets it.
    panoptic.SAVE = False
    # Processes that count from PNGs (threads of hotcoco's); 0 for one per CPU, at most 16.
    # --num-procs sets it.
    panoptic.NUM_PROCS = 0
