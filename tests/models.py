"""Small models for tests."""

import torch
from detectron2.modeling import build_model

from ocr_panoptic.engine.setup import load_config

from .conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
TINY = {
    "baseline": CONFIGS / "Shapes-PanopticSegmentation/panoptic_fpn_tiny.yaml",
    "ocr": CONFIGS / "Shapes-PanopticSegmentation/panoptic_fpn_ocr_tiny.yaml",
    "mask_rcnn": CONFIGS / "Shapes-InstanceSegmentation/mask_rcnn_tiny.yaml",
    "isa": CONFIGS / "Shapes-InstanceSegmentation/mask_rcnn_isa_tiny.yaml",
    "nl": CONFIGS / "Shapes-InstanceSegmentation/mask_rcnn_nl_tiny.yaml",
}

# As small as a Panoptic-FPN gets, for tests that run it.
SMALL = [
    *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.RPN.CONV_DIMS", [32]),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
    *("INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96, "DATALOADER.NUM_WORKERS", 0),
    *("MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", 2, "SEED", 3),
]

# What makes "ocr" of SMALL 40 times smaller still, for runs that write many checkpoints.
SMALLEST = {
    **{"MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.STEM_OUT_CHANNELS": 8},
    **{"MODEL.RESNETS.RES2_OUT_CHANNELS": 16, "MODEL.RESNETS.WIDTH_PER_GROUP": 4},
    **{"MODEL.SEM_SEG_HEAD.OCR.CHANNELS": 32, "MODEL.SEM_SEG_HEAD.OCR.KEY_CHANNELS": 16},
    **{"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 3, "MODEL.ROI_MASK_HEAD.NUM_CONV": 1},
}


def small_config(name="ocr", overrides=()):
    return load_config(str(TINY[name]), [*map(str, SMALL), *map(str, overrides)])


def small_model(name="ocr", overrides=(), seed=0):
    torch.manual_seed(seed)
    return build_model(small_config(name, overrides))
