"""Bad configs and arguments: one line that names the key or file, the value and what to write."""

import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ocr_panoptic.engine.setup import argument_parser, check_config, load_config
from ocr_panoptic.errors import InputError

from ..conftest import needs_operators
from ..models import TINY, small_config

TEST_SETS = [
    *("DATASETS.TRAIN", "('test_shapes_train_separated',)"),
    *("DATASETS.TEST", "('test_shapes_val_separated',)"),
]

BAD_OVERRIDES = [
    (["MODEL.SEM_SEG_HEAD.OCR.CHANELS", 3], "Non-existent key: MODEL.SEM_SEG_HEAD.OCR.CHANELS"),
    (["MODEL.NOTHING.HERE", 3], "Non-existent key: MODEL.NOTHING.HERE"),
    (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER: many, expected an integer"),
    (["SOLVER.STEPS", "('a', ' vs. ')", "SOLVER.STEPS", "soon"], "STEPS: soon, expected a list"),
    (["SOLVER", "{}"], "SOLVER: has keys of its own, expected one such as SOLVER.LR_SCHEDULER"),
    (["MODEL.RESNETS.STRIDE_IN_1X1.X", 1], "Non-existent key: MODEL.RESNETS.STRIDE_IN_1X1.X, exp"),
    (["_BASE_", "x"], "Non-existent key: _BASE_, expected a key of the config"),
    (["SOLVER.MAX_ITER"], "1 words after the options, expected pairs of KEY VALUE"),
]

BAD_CONFIGS = [
    (
        ["MODEL.SEM_SEG_HEAD.NAME", "OCRSemSegFPNHed"],
        "MODEL.SEM_SEG_HEAD.NAME: 'OCRSemSegFPNHed' is not registered, expected OCRSemSegFPNHead",
    ),
    (
        ["MODEL.META_ARCHITECTURE", "zzz"],
        "MODEL.META_ARCHITECTURE: 'zzz' is not registered, expected ",
    ),
    (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE: 'gpu', expected cuda or cpu"),
    (["SOLVER.NONFINITE", "go on"], "SOLVER.NONFINITE: 'go on', expected one of stop skip"),
    (["SOLVER.NONFINITE_SKIPS", 0], "SOLVER.NONFINITE_SKIPS: 0, expected 1 or more"),
    (["SOLVER.REFERENCE_BATCH", -8], "SOLVER.REFERENCE_BATCH: -8, expected 0 or more"),
    (["SOLVER.REFERENCE_BATCH", "None"], "SOLVER.REFERENCE_BATCH: None, expected an integer"),
    (
        ["SOLVER.REFERENCE_WORLD_SIZE", 4],
        "SOLVER.REFERENCE_WORLD_SIZE: 4 with REFERENCE_BATCH 8: both scale the schedule",
    ),
    (["SOLVER.BASE_LR", "None"], "SOLVER.BASE_LR: None, expected a number"),
    (["SOLVER.BASE_LR", -0.1], "SOLVER.BASE_LR: -0.1, expected 0 or more"),
    (["SOLVER.LR_SCHEDULER_NAME", "Poly"], "LR_SCHEDULER_NAME: 'Poly', expected one of Warmup"),
    (["SOLVER.WARMUP_METHOD", "sine"], "WARMUP_METHOD: 'sine', expected one of linear constant"),
    (
        ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.5],
        "SOLVER.BASE_LR_END: 0.5, expected 0 to 0.03",
    ),
    (
        ["MODEL.RESNETS.NORM", "FrozenBN"],
        "MODEL.WEIGHTS: '' with MODEL.RESNETS.NORM FrozenBN and MODEL.BACKBONE.FREEZE_AT 0: .*"
        "expected weights, or RESNETS.NORM BN, SyncBN or GN with FREEZE_AT 0",
    ),
    (["MODEL.BACKBONE.FREEZE_AT", 2], "RESNETS.NORM BN and MODEL.BACKBONE.FREEZE_AT 2: random"),
    (
        ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54],
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 54; expected 7, the number of stuff_classes of dataset "
        "test_shapes_train_separated",
    ),
    (["MODEL.ROI_HEADS.NUM_CLASSES", 80], "MODEL.ROI_HEADS.NUM_CLASSES is 80; expected 6"),
    (["DATASETS.TRAIN", "('test_shape_train_separated',)"], "'test_shape_train_separated' is not"),
    (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN: empty, expected the name of a data set"),
    (["DATASETS.TRAIN", "(1,)"], "DATASETS.TRAIN: .*, expected names of data sets"),
    (["SOLVER.MAX_ITER", 0], "SOLVER.MAX_ITER: 0, expected 1 or more"),
    (["SOLVER.STEPS", "(3,2)"], "SOLVER.STEPS: .*, expected iterations, each later than"),
    (["MODEL.SEM_SEG_HEAD.OCR.NORM", "XX"], "OCR.NORM: 'XX', expected one of BN SyncBN GN"),
    (["MODEL.SEM_SEG_HEAD.OCR.DROPOUT", 2.0], "OCR.DROPOUT: 2.0, expected 0 to 1"),
    (["MODEL.SEM_SEG_HEAD.OCR.CHANNELS", "None"], "OCR.CHANNELS: None, expected an integer"),
    (["MODEL.FPN.NORM", "None"], "MODEL.FPN.NORM: None, expected text"),
    (["MODEL.SEM_SEG_HEAD.OCR.CHANNELS", 0], "OCR.CHANNELS: 0, expected 1 or more"),
    (
        ["MODEL.SEM_SEG_HEAD.OCR.NORM", "GN", "MODEL.SEM_SEG_HEAD.OCR.KEY_CHANNELS", 32],
        "OCR.NORM: GN with CHANNELS 128 and KEY_CHANNELS 32, expected multiples",
    ),
    (["MODEL.DEVICE", "meta"], "MODEL.DEVICE: 'meta', expected cuda or cpu"),
    (["OUTPUT_DIR", "/dev/null/run"], "OUTPUT_DIR: /dev/null/run: Not a directory, expected"),
    (["SOLVER.IMS_PER_BATCH", 0], "SOLVER.IMS_PER_BATCH: 0 images for 1 processes"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD_OVERRIDES)
def test_bad_overrides(overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config(str(TINY["ocr"]), overrides)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("command line: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {SEM_SEG_HEAD: {OCRR: 1}}", "Non-existent config key: MODEL.SEM_SEG_HEAD.OCRR"),
        ("MODEL: [", "while parsing .*; expected a yaml config"),
        ("A: " + "[" * 500, "too deep to read, expected a yaml config"),
        ("_BASE_: missing.yaml", "missing.yaml: no such file, expected a yaml config"),
        ("_BASE_: /dev/zero", "/dev/zero: no such file, expected a yaml config"),
        ("_BASE_: bad.yaml", "_BASE_: bad.yaml is based on itself, expected another file"),
        ("_BASE_: 3", "_BASE_: 3, expected the path of a config file, or a list"),
        ("_BASE_: [1]", r"_BASE_: \[1\], expected the path of a config file, or a list"),
        ("_BASE_:", "_BASE_: None, expected the path of a config file, or a list"),
        ("_BASE_: [latin.yaml]", "latin.yaml: no utf-8 text, expected a yaml config"),
        ("_BASE_: [empty.yaml]", "empty.yaml: empty, expected keys of the config"),
        ("1: 2", "bad.yaml: 1: no name, expected a key of the config"),
        ("SOLVER:", "SOLVER: nothing in it, expected keys such as SOLVER.LR_SCHEDULER_NAME"),
        ("MODEL: {FPN: 3}", "MODEL.FPN: 3, expected keys such as MODEL.FPN.IN_FEATURES"),
        ("SOLVER: {STEPS: {A: 1}}", "SOLVER.STEPS: A: 1, expected a list"),
        ("MODEL: {WEIGHTS: null}", "MODEL.WEIGHTS: None, expected text"),
        ("SEED: !!python/object/apply:os.getpid []", "could not determine a constructor"),
    ],
)
def test_bad_config_files(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(f"VERSION: 2\n{text}\n")
    (tmp_path / "latin.yaml").write_bytes("A: é\n".encode("latin-1"))
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(InputError, match=message) as caught:
        load_config(str(path), [])
    assert "\n" not in str(caught.value)
    # A wrong type is told once all files are merged.
    assert str(path) in str(caught.value) or "WEIGHTS" in text


def test_config_files_of_several_bases(tmp_path):
    (tmp_path / "one.yaml").write_text("_BASE_: two.yaml\nSEED: 1\n")
    (tmp_path / "two.yaml").write_text("SEED: 2\nVIS_PERIOD: 2\n")
    # The same one twice is no circle.
    (tmp_path / "all.yaml").write_text("_BASE_: [one.yaml, two.yaml]\n")
    cfg = load_config(str(tmp_path / "all.yaml"), [])
    assert (cfg.SEED, cfg.VIS_PERIOD) == (2, 2)


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_proposals_of_others_run_no_code(tmp_path):
    written, proposals = tmp_path / "written", tmp_path / "proposals.pkl"
    proposals.write_bytes(pickle.dumps(_Touch(written)))
    path = tmp_path / "mine.yaml"
    files = {f"PROPOSAL_FILES_{part}": [str(proposals)] for part in ("TRAIN", "TEST")}
    content = {"_BASE_": str(TINY["ocr"]), "MODEL": {"LOAD_PROPOSALS": True}, "DATASETS": files}
    path.write_text(yaml.safe_dump(content))
    message = r"MODEL\.LOAD_PROPOSALS: True, .* pickles, which could run any code; expected False"
    with pytest.raises(InputError, match=message):
        load_config(str(path), [])
    # Of whoever makes a config otherwise.
    cfg = small_config("ocr")
    cfg.MODEL.LOAD_PROPOSALS = True
    with pytest.raises(InputError, match=message):
        check_config(cfg, train=True)
    assert not written.exists()
    pickle.loads(proposals.read_bytes())
    assert written.exists()


def test_missing_config_file():
    with pytest.raises(InputError, match=r"--config-file no\.yaml: no such file"):
        load_config("no.yaml", [])


@pytest.mark.parametrize(("overrides", "message"), BAD_CONFIGS)
def test_bad_configs(datasets_root, overrides, message):
    with pytest.raises(InputError, match=message):
        check_config(small_config("ocr", [*TEST_SETS, *overrides]), train=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NAME", "iso", "CONTEXT.NAME: 'iso', expected one of "),
        ("NORM", "FrozenBN", "CONTEXT.NORM: 'FrozenBN', expected one of BN"),
        ("PARTITIONS", "(8,)", "CONTEXT.PARTITIONS: (8,), expected two integers"),
        ("PARTITIONS", "(0, 8)", "CONTEXT.PARTITIONS: (0, 8), expected two"),
        ("PARTITIONS", "(True, True)", "CONTEXT.PARTITIONS: (True, True), expected two integers"),
        ("PARTITIONS", "(9999999, 8)", "CONTEXT.PARTITIONS: (9999999, 8), expected two integers"),
        ("PARTITIONS", "None", "CONTEXT.PARTITIONS: None, expected a list"),
        ("ORDER", "(['global'],)", "CONTEXT.ORDER: (['global'],), expected one or both of"),
        ("ORDER", "('local', 'local')", "CONTEXT.ORDER: ('local', 'local'), expected one or both"),
        ("ORDER", "None", "CONTEXT.ORDER: None, expected a list"),
        ("BLOCK", "None", "CONTEXT.BLOCK: None, expected an integer"),
        ("NAME", "None", "CONTEXT.NAME: None, expected text"),
        ("SUBSAMPLE", "None", "CONTEXT.SUBSAMPLE: None, expected True or False"),
        ("MASK_PADDING", "None", "MASK_PADDING: None, expected True or False"),
        ("STAGE", "res7", "CONTEXT.STAGE: 'res7', expected one of res2 res3"),
    ],
)
def test_bad_values_of_a_context(datasets_root, key, value, message):
    overrides = [
        *("MODEL.BACKBONE.NAME", "build_context_resnet_fpn_backbone"),
        *("MODEL.RESNETS.CONTEXT.NAME", "isa", "MODEL.RESNETS.CONTEXT.NORM", "BN"),
        *(f"MODEL.RESNETS.CONTEXT.{key}", value),
    ]
    with pytest.raises(InputError, match=re.escape(message)):
        check_config(small_config("ocr", [*TEST_SETS, *overrides]), train=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NAME", "orc", "CONTEXT.NAME: 'orc', expected one of"),
        ("NAME", "", "CONTEXT.NAME: '' with ContextSemSegFPNHead, expected one of"),
        ("NORM", "BM", "CONTEXT.NORM: 'BM', expected one of BN"),
        ("CHANNELS", "0", "CONTEXT.CHANNELS: 0, expected 1 or more"),
        ("STRIDE", "None", "CONTEXT.STRIDE: None, expected an integer"),
        ("REGION_LOSS_WEIGHT", "-0.1", "CONTEXT.REGION_LOSS_WEIGHT: -0.1, expected 0 or more"),
        ("CHECKPOINT_ACTIVATIONS", "None", "CHECKPOINT_ACTIVATIONS: None, expected True or"),
        ("DROPOUT", "1.5", "CONTEXT.DROPOUT: 1.5, expected 0 to 1"),
        ("KEY_CHANNELS", "-1", "CONTEXT.KEY_CHANNELS: -1, expected 0 or more"),
        ("KEY_CHANNELS", "None", "CONTEXT.KEY_CHANNELS: None, expected an integer"),
        ("VALUE_CHANNELS", "-1", "CONTEXT.VALUE_CHANNELS: -1, expected 0 or more"),
        ("OUTPUT_NORM", "BM", "CONTEXT.OUTPUT_NORM: 'BM', expected one of BN"),
        ("NUM_REGIONS", "0", "CONTEXT.NUM_REGIONS: 0, expected 1 or more"),
        ("RECURRENCE", "0", "CONTEXT.RECURRENCE: 0, expected 1 or more"),
        ("BINS", "()", "CONTEXT.BINS: (), expected integers from 1"),
        ("BINS", "(1, 0)", "CONTEXT.BINS: (1, 0), expected integers from 1"),
        ("RATES", "(1.5,)", "CONTEXT.RATES: (1.5,), expected integers from 1"),
        ("PARTITIONS", "(8,)", "CONTEXT.PARTITIONS: (8,), expected two integers"),
    ],
)
def test_bad_values_of_a_context_in_the_head(datasets_root, key, value, message):
    overrides = [
        *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "ocr", "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN"),
        *(f"MODEL.SEM_SEG_HEAD.CONTEXT.{key}", value),
    ]
    with pytest.raises(InputError, match=re.escape(message)):
        check_config(small_config("ocr", [*TEST_SETS, *overrides]), train=True)


def test_a_context_in_a_head_that_is_not_built():
    overrides = [
        *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
        *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "ocr"),
    ]
    message = "CONTEXT.NAME: 'ocr' with MODEL.META_ARCHITECTURE GeneralizedRCNN, which has no sem"
    with pytest.raises(InputError, match=re.escape(message)):
        check_config(small_config("ocr", overrides), train=False)


def test_pyramid_pooling_of_one_image_has_one_value(datasets_root):
    overrides = [
        *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "ppm", "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN"),
    ]
    one = [*TEST_SETS, *overrides, "SOLVER.IMS_PER_BATCH", 1]
    with pytest.raises(InputError, match=r"PPM averages an image to one value, and .*NORM BN"):
        check_config(small_config("ocr", one), train=True)
    two = small_config("ocr", [*TEST_SETS, *overrides, "SOLVER.IMS_PER_BATCH", 2])
    check_config(two, train=True)
    with pytest.raises(InputError, match="IMS_PER_BATCH: 2 for 2 processes, but PPM averages"):
        check_config(two, train=True, processes=2)
    check_config(small_config("ocr", [*one, "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "GN"]), train=True)
    check_config(small_config("ocr", [*one, "MODEL.SEM_SEG_HEAD.CONTEXT.BINS", "(2,)"]), train=True)


def test_a_head_that_reads_no_context(datasets_root):
    overrides = ["MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "isa"]
    with pytest.raises(InputError, match="OCRSemSegFPNHead, expected ContextSemSegFPNHead"):
        check_config(small_config("ocr", [*TEST_SETS, *overrides]), train=True)


@pytest.mark.parametrize(
    "backbone", ["build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"]
)
def test_a_backbone_that_reads_no_context(datasets_root, backbone):
    overrides = ["MODEL.BACKBONE.NAME", backbone, "MODEL.RESNETS.CONTEXT.NAME", "isa"]
    with pytest.raises(InputError, match="expected build_context_resnet_fpn_backbone"):
        check_config(small_config("ocr", [*TEST_SETS, *overrides]), train=True)


OPERATORS = [
    ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, True, False]"),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"),
]


@pytest.mark.parametrize(("key", "value"), OPERATORS)
def test_what_needs_compiled_operators(datasets_root, monkeypatch, key, value):
    cfg = small_config(overrides=[*TEST_SETS, "MODEL.RESNETS.DEPTH", 50, key, value])
    # A module that is None is not found.
    monkeypatch.setitem(sys.modules, "detectron2._C", None)
    message = f"{key}: {value} needs compiled operators, expected another value, or a Detectron2"
    with pytest.raises(InputError, match=re.escape(message)):
        check_config(cfg, train=False)


@needs_operators
@pytest.mark.parametrize(("key", "value"), OPERATORS)
def test_compiled_operators_are_there(datasets_root, tmp_path, key, value):
    overrides = [*TEST_SETS, "MODEL.RESNETS.DEPTH", 50, "OUTPUT_DIR", tmp_path / "output"]
    overrides += [key, value]
    check_config(small_config(overrides=overrides), train=False)
    assert (tmp_path / "output").is_dir()


def test_a_good_config_passes_unchanged(datasets_root):
    cfg = small_config("ocr", TEST_SETS)
    before = cfg.dump()
    assert check_config(cfg, train=True) == []
    assert cfg.dump() == before


def test_cuda_without_a_device(datasets_root, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = small_config("ocr", [*TEST_SETS, "MODEL.DEVICE", "cuda"])
    with pytest.raises(InputError, match=r"MODEL\.DEVICE: cuda, but torch finds no CUDA device"):
        check_config(cfg, train=True)


def test_mixed_precision_is_for_cuda(datasets_root):
    cfg = small_config("ocr", [*TEST_SETS, "SOLVER.AMP.ENABLED", True])
    assert check_config(cfg, train=False) == []
    (change,) = check_config(cfg, train=True)
    assert change.startswith("SOLVER.AMP.ENABLED: Detectron2 trains with mixed precision on CUDA")
    assert not cfg.SOLVER.AMP.ENABLED


@pytest.mark.parametrize("name", ["ocr", "baseline", "mask_rcnn"])
def test_one_process_synchronises_nothing(datasets_root, name):
    kind = "instances" if name == "mask_rcnn" else "separated"
    sets = ["DATASETS.TRAIN", f"('test_shapes_train_{kind}',)", "DATASETS.TEST", "()"]
    cfg = small_config(name, [*sets, "MODEL.SEM_SEG_HEAD.OCR.NORM", "SyncBN"])
    # Of the parts that are built.
    key = "MODEL.SEM_SEG_HEAD.OCR.NORM"
    line = f"{key}: SyncBN of one process is BatchNorm over its own images"
    assert check_config(cfg, train=True) == ([line] if name == "ocr" else [])
    assert cfg.MODEL.SEM_SEG_HEAD.OCR.NORM == "SyncBN"
    assert check_config(cfg, train=False) == []


def test_a_checkpoint_to_resume_from_is_no_random_weights(datasets_root, tmp_path):
    frozen = ["MODEL.RESNETS.NORM", "FrozenBN", "OUTPUT_DIR", tmp_path / "run"]
    cfg = small_config("ocr", [*TEST_SETS, *frozen])
    message = "random weights that are frozen are never trained"
    with pytest.raises(InputError, match=message):
        check_config(cfg, train=True, resume=True)
    check_config(cfg, train=False)
    assert (tmp_path / "run").is_dir()
    (tmp_path / "run/model_0000001.pth").write_bytes(b"")
    assert check_config(cfg, train=True, resume=True) == []
    with pytest.raises(InputError, match=message):
        check_config(cfg, train=True)
    cfg.MODEL.WEIGHTS = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert check_config(cfg, train=True) == []


def test_several_processes_on_the_cpu(datasets_root):
    cfg = small_config("ocr", [*TEST_SETS, "MODEL.SEM_SEG_HEAD.OCR.NORM", "SyncBN"])
    (change,) = check_config(cfg, train=True, processes=2)
    assert change.startswith("MODEL.SEM_SEG_HEAD.OCR.NORM: SyncBN needs CUDA between processes")
    assert cfg.MODEL.SEM_SEG_HEAD.OCR.NORM == "naiveSyncBN"
    assert cfg.MODEL.SEM_SEG_HEAD.NORM == "GN"
    cfg.SOLVER.IMS_PER_BATCH = 3
    with pytest.raises(InputError, match="IMS_PER_BATCH: 3 images for 2 processes"):
        check_config(cfg, train=True, processes=2)
    check_config(cfg, train=False, processes=2)


def test_arguments_are_detectron2s():
    args = argument_parser().parse_args(
        ["--config-file", "a.yaml", "--num-gpus", "2", "--resume", "SOLVER.MAX_ITER", "3"]
    )
    assert (args.config_file, args.num_gpus, args.resume) == ("a.yaml", 2, True)
    assert args.opts == ["SOLVER.MAX_ITER", "3"]
    assert args.dist_url == "auto"


@pytest.mark.parametrize("argv", [["--num-gpus", "two"], ["--no-such-flag"]])
def test_bad_arguments_are_one_line(argv):
    with pytest.raises(InputError, match="--n"):
        argument_parser().parse_args(argv)
