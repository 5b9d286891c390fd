"""Values that no model, input or schedule can be made of: one line each, before anything is built.

Each row would otherwise end in a traceback, or be passed over in silence.
"""

import re

import pytest

from ocr_panoptic.engine.values import check_values
from ocr_panoptic.errors import InputError

from ..models import TINY, small_config

ROOTS, ROI, RPN, HEAD = "MODEL.RESNETS", "MODEL.ROI_HEADS", "MODEL.RPN", "MODEL.SEM_SEG_HEAD"
ANCHORS, CLIP = "MODEL.ANCHOR_GENERATOR", "SOLVER.CLIP_GRADIENTS"

# A key, a value, what is expected; and in a fourth place other keys and values.
BAD_VALUES = [
    (f"{ROOTS}.DEPTH", 19, "expected one of 18 34 50 101 152"),
    (f"{ROOTS}.RES2_OUT_CHANNELS", 0, "expected 1 or more"),
    (f"{ROOTS}.RES2_OUT_CHANNELS", 16, "expected 64 with DEPTH 18", [f"{ROOTS}.DEPTH", 18]),
    (f"{ROOTS}.RES5_DILATION", 3, "expected one of 1 2"),
    (f"{ROOTS}.RES5_DILATION", 2, "expected 1 with DEPTH 18", [f"{ROOTS}.DEPTH", 18]),
    (f"{ROOTS}.OUT_FEATURES", ["res9"], "expected some of stem res2 res3 res4 res5"),
    (f"{ROOTS}.OUT_FEATURES", [], "expected some of stem res2"),
    (f"{ROOTS}.DEFORM_ON_PER_STAGE", [], "expected four of True and False"),
    ("MODEL.BACKBONE.FREEZE_AT", 9, "expected 0 to 5"),
    ("MODEL.FPN.IN_FEATURES", ["res9"], "expected some of res2 res3 res4 res5"),
    ("MODEL.FPN.IN_FEATURES", ["res2"], "some of res3", [f"{ROOTS}.OUT_FEATURES", ["res3"]]),
    ("MODEL.FPN.IN_FEATURES", ["res2", "res4"], "expected stages one behind the other"),
    ("MODEL.FPN.OUT_CHANNELS", 0, "expected 1 or more"),
    ("MODEL.FPN.OUT_CHANNELS", 33, "expected a multiple of the 32", ["MODEL.FPN.NORM", "GN"]),
    ("MODEL.FPN.FUSE_TYPE", "max", "expected one of sum avg"),
    (f"{RPN}.IN_FEATURES", ["p9"], "expected some of p2 p3 p4 p5 p6"),
    (f"{ROI}.IN_FEATURES", ["p9"], "expected some of p2 p3 p4 p5 p6"),
    (f"{HEAD}.IN_FEATURES", ["p7"], "expected some of p2 p3 p4 p5 p6"),
    (f"{RPN}.IOU_THRESHOLDS", [0.7, 0.3], "expected numbers above 0 up to 1, each not less"),
    (f"{RPN}.IOU_THRESHOLDS", [0.3], "", [f"{RPN}.IOU_LABELS", "[0, -1, 1]"]),
    (f"{ROI}.IOU_LABELS", [0, 7], "expected 2 of 0, -1 and 1, one more than IOU_THRESHOLDS"),
    (f"{RPN}.BBOX_REG_LOSS_TYPE", "l9", "expected one of smooth_l1 giou"),
    (f"{RPN}.PRE_NMS_TOPK_TRAIN", -1, "expected 1 or more"),
    (f"{RPN}.BATCH_SIZE_PER_IMAGE", 0, "expected 1 or more"),
    (f"{RPN}.NMS_THRESH", 1.5, "expected 0 to 1"),
    (f"{ROI}.SCORE_THRESH_TEST", None, "expected a number"),
    (f"{ROI}.NMS_THRESH_TEST", None, "expected a number"),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "Foo", "expected one of ROIAlign ROIAlignV2"),
    ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 0, "expected 1 or more"),
    ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 0, "expected 1 or more"),
    ("MODEL.ROI_MASK_HEAD.NORM", "BM", "expected one of BN"),
    (f"{ANCHORS}.SIZES", [], "expected 1 or 5 lists of numbers above 0"),
    (f"{ANCHORS}.SIZES", [[32], [64]], "expected 1 or 5 lists of numbers above 0"),
    (f"{ANCHORS}.ASPECT_RATIOS", [[]], "expected 1 or 5 lists of numbers above 0"),
    (f"{ANCHORS}.OFFSET", 1.0, "expected 0 to less than 1"),
    (f"{HEAD}.COMMON_STRIDE", 3, "expected one of 1 2 4 8 16 32"),
    (f"{HEAD}.COMMON_STRIDE", 8, "expected 4 or less, as the finest of IN_FEATURES"),
    (f"{HEAD}.CONVS_DIM", 33, "expected a multiple of the 32 groups"),
    ("MODEL.PIXEL_MEAN", [1.0, 2.0], "expected 3 numbers, as INPUT.FORMAT BGR has channels"),
    ("MODEL.PIXEL_STD", ["a", "b", "c"], "expected 3 numbers, as INPUT.FORMAT BGR has channels"),
    ("MODEL.PIXEL_STD", [0.0, 1.0, 1.0], "expected numbers above 0"),
    ("SOLVER.STEPS", None, "expected a list"),
    ("SOLVER.STEPS", (-5,), "expected iterations, each later than the last"),
    ("SOLVER.MOMENTUM", -1.0, "expected 0 or more"),
    ("SOLVER.MOMENTUM", 0.0, "expected more than 0 with NESTEROV", ["SOLVER.NESTEROV", True]),
    ("SOLVER.WEIGHT_DECAY", -1.0, "expected 0 or more"),
    ("SOLVER.GAMMA", None, "expected a number"),
    ("SOLVER.WARMUP_FACTOR", None, "expected a number"),
    ("SOLVER.NUM_DECAYS", 0, "expected 1 or more"),
    (f"{CLIP}.CLIP_TYPE", "full_model", "expected one of value norm"),
    (f"{CLIP}.CLIP_VALUE", -1.0, "expected more than 0"),
    ("INPUT.FORMAT", "XYZ", "expected one of RGB BGR"),
    ("INPUT.MIN_SIZE_TRAIN", (), "expected integers from 0"),
    ("INPUT.MIN_SIZE_TRAIN", (-5,), "expected integers from 0"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "foo", "expected one of choice range"),
    ("INPUT.MIN_SIZE_TRAIN", (64,), "", ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"]),
    ("INPUT.MAX_SIZE_TRAIN", 0, "expected 1 or more"),
    ("INPUT.MIN_SIZE_TEST", -1, "expected 0 or more"),
    ("INPUT.RANDOM_FLIP", "sideways", "expected one of none horizontal vertical"),
    ("INPUT.CROP.TYPE", "foo", "expected one of relative_range", ["INPUT.CROP.ENABLED", True]),
    ("INPUT.CROP.SIZE", [2.0, 3.0], "expected two parts of", ["INPUT.CROP.ENABLED", True]),
    (
        "INPUT.CROP.SIZE",
        [64, 32],
        "expected two numbers of pixels with CROP.TYPE absolute_range, the lesser first",
        ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute_range"],
    ),
    ("INPUT.MASK_FORMAT", "rle", "expected one of polygon bitmask"),
    ("TEST.AUG.ENABLED", True, "expected False: there is no test-time augmentation here"),
    ("TEST.DETECTIONS_PER_IMAGE", -4, "expected -1 or more"),
    ("TEST.EVAL_PERIOD", None, "expected an integer"),
    ("TEST.EXPECTED_RESULTS", [["a"]], "expected [[task, metric, value, tolerance], ...]"),
    ("TEST.EXPECTED_RESULTS", [["boxes", "AP", 1.0, 0.1]], "task panoptic_seg or sem_seg"),
    (
        "TEST.EXPECTED_RESULTS",
        [["bbox", "AP", 1.0, 0.1]],
        "with DATASETS.TEST (), expected one data set",
        ["DATASETS.TEST", "()"],
    ),
    ("MODEL.DEVICE", None, "expected text"),
    ("MODEL.KEYPOINT_ON", None, "expected True or False"),
    ("DATASETS.TRAIN", None, "expected a list"),
    ("OUTPUT_DIR", "a\0b", "expected text without a NUL byte"),
]


@pytest.fixture(scope="module")
def small():
    return small_config("ocr")


@pytest.mark.parametrize("row", BAD_VALUES, ids=lambda row: f"{row[0]} {row[1]!r}")
def test_bad_values(small, row):
    key, value, expected, *before = row
    cfg = small.clone()
    cfg.merge_from_list([*(before[0] if before else ()), key, value])
    with pytest.raises(InputError) as caught:
        check_values(cfg, train=True, processes=1)
    line = str(caught.value)
    assert expected in line
    assert "expected" in line
    # Of two that contradict each other, either is named.
    assert re.match(rf"{re.escape(key)}: |{re.escape(key.rpartition('.')[0])}\.", line)


# What is odd, and fine all the same.
GOOD_VALUES = [
    ("SOLVER.WEIGHT_DECAY_BIAS", None),
    ("SOLVER.WEIGHT_DECAY_BIAS", 0.0),
    ("SOLVER.STEPS", []),
    (f"{ANCHORS}.SIZES", [32, 64]),
    (f"{RPN}.CONV_DIMS", []),
    ("TEST.DETECTIONS_PER_IMAGE", -1),
    ("TEST.EVAL_PERIOD", -1),
    ("TEST.EXPECTED_RESULTS", [["bbox", "AP", 38.5, 0.2]]),
    ("INPUT.MIN_SIZE_TRAIN", (0,)),
    ("INPUT.CROP.SIZE", [2.0, 3.0]),
    (f"{HEAD}.COMMON_STRIDE", 2),
]


@pytest.mark.parametrize(("key", "value"), GOOD_VALUES)
def test_odd_values_that_are_fine(small, key, value):
    cfg = small.clone()
    cfg.DATASETS.TEST = ("one",)
    cfg.merge_from_list([key, value])
    check_values(cfg, train=True, processes=1)


def test_an_integer_does_for_a_number(small):
    cfg = small.clone()
    cfg.SOLVER.BASE_LR = 1
    check_values(cfg, train=True, processes=1)
    cfg.SOLVER.BASE_LR = True
    with pytest.raises(InputError, match=r"SOLVER\.BASE_LR: True, expected a number"):
        check_values(cfg, train=True, processes=1)


@pytest.mark.parametrize("name", TINY)
def test_training_is_not_asked_of_an_evaluation(name):
    cfg = small_config(name, ["INPUT.MIN_SIZE_TRAIN", "()", "INPUT.CROP.ENABLED", True])
    check_values(cfg, train=False, processes=1)
    with pytest.raises(InputError, match="MIN_SIZE_TRAIN"):
        check_values(cfg, train=True, processes=1)
