"""Bad configurations and files: the one line and the exit status that train_net.py answers with.

One table of what users get wrong, from the config file to the checkpoint. Each row runs the whole
command line in this process. What single checks say in detail is tested beside them.
"""

import json
import shutil
import socket

import pytest
import torch
import yaml

from ocr_panoptic.data.shapes.register import register_shapes
from ocr_panoptic.errors import BAD_INPUT

from ..conftest import load_tool
from ..models import SMALL, TINY

TRAIN, VAL = "test_shapes_train_separated", "test_shapes_val_separated"
BASE = {
    **dict(zip(SMALL[::2], SMALL[1::2], strict=True)),
    **{"DATASETS.TRAIN": (TRAIN,), "DATASETS.TEST": (VAL,)},
    **{"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,)},
}
HEAD, ROOTS = "MODEL.SEM_SEG_HEAD", "MODEL.RESNETS"
CONTEXT_HEAD = {f"{HEAD}.NAME": "ContextSemSegFPNHead", f"{HEAD}.CONTEXT.NORM": "BN"}

# Words behind --config-file F, or overrides; and what stands in the line.
CONFIGURATIONS = {
    "unknown key": ({"SOLVER.BASE_LRR": 0.1}, "SOLVER.BASE_LRR"),
    "wrong type": ({"SOLVER.MAX_ITER": "many"}, "SOLVER.MAX_ITER"),
    "odd words": (["SOLVER.MAX_ITER"], "1 words after the options, expected pairs of KEY VALUE"),
    "architecture": (
        {"MODEL.META_ARCHITECTURE": "PanopticFNP"},
        "MODEL.META_ARCHITECTURE: 'PanopticFNP' is not registered, expected PanopticFPN",
    ),
    "backbone": ({"MODEL.BACKBONE.NAME": "resnet"}, "MODEL.BACKBONE.NAME: 'resnet' is not reg"),
    "head": ({f"{HEAD}.NAME": "OCRHead"}, f"{HEAD}.NAME: 'OCRHead' is not registered"),
    "norm": ({f"{HEAD}.OCR.NORM": "BM"}, f"{HEAD}.OCR.NORM: 'BM', expected one of BN"),
    "dropout": ({f"{HEAD}.OCR.DROPOUT": 1.5}, f"{HEAD}.OCR.DROPOUT: 1.5, expected 0 to 1"),
    "channels": ({f"{HEAD}.OCR.CHANNELS": 0}, f"{HEAD}.OCR.CHANNELS: 0, expected 1 or more"),
    "groups": (
        {f"{HEAD}.OCR.NORM": "GN", f"{HEAD}.OCR.CHANNELS": 100},
        "expected multiples of its 32 groups",
    ),
    "loss weight": ({f"{HEAD}.LOSS_WEIGHT": -1.0}, f"{HEAD}.LOSS_WEIGHT: -1.0, expected 0 or mo"),
    "classes": ({f"{HEAD}.NUM_CLASSES": 54}, f"{HEAD}.NUM_CLASSES is 54; expected 7"),
    "things": (
        {"MODEL.ROI_HEADS.NUM_CLASSES": 80},
        "MODEL.ROI_HEADS.NUM_CLASSES is 80; expected 6",
    ),
    "scheme": (
        {**CONTEXT_HEAD, f"{HEAD}.CONTEXT.NAME": "pmm"},
        f"{HEAD}.CONTEXT.NAME: 'pmm', expected one of",
    ),
    "scheme in no head": (
        {f"{HEAD}.CONTEXT.NAME": "ppm"},
        f"{HEAD}.CONTEXT.NAME: 'ppm' with {HEAD}.NAME OCRSemSegFPNHead, expected ContextSemSeg",
    ),
    "stride": (
        {**CONTEXT_HEAD, f"{HEAD}.CONTEXT.NAME": "ppm", f"{HEAD}.CONTEXT.STRIDE": 64},
        f"{HEAD}.CONTEXT.STRIDE: 64, expected",
    ),
    "regions in a backbone": (
        {
            "MODEL.BACKBONE.NAME": "build_context_resnet_fpn_backbone",
            **{f"{ROOTS}.CONTEXT.NAME": "seg_transformer", f"{ROOTS}.CONTEXT.NORM": "BN"},
        },
        "'seg_transformer' needs regions of classes, expected a scheme without",
    ),
    "box head": ({"MODEL.ROI_BOX_HEAD.NAME": "Box"}, "ROI_BOX_HEAD.NAME: 'Box' is not registered"),
    "no box head": ({"MODEL.ROI_BOX_HEAD.NAME": "''"}, "ROI_BOX_HEAD.NAME: '' is not registered"),
    "mask head": ({"MODEL.ROI_MASK_HEAD.NAME": "Mask"}, "ROI_MASK_HEAD.NAME: 'Mask' is not reg"),
    "RPN head": ({"MODEL.RPN.HEAD_NAME": "Head"}, "MODEL.RPN.HEAD_NAME: 'Head' is not registered"),
    "anchors": (
        {"MODEL.ANCHOR_GENERATOR.NAME": "Anchor"},
        "MODEL.ANCHOR_GENERATOR.NAME: 'Anchor' is not registered",
    ),
    "keypoints": (
        {"MODEL.KEYPOINT_ON": True},
        f"MODEL.KEYPOINT_ON: True, but data set {TRAIN} has no keypoints, expected False",
    ),
    "proposals": ({"MODEL.LOAD_PROPOSALS": True}, "MODEL.LOAD_PROPOSALS: True, but precomputed"),
    "depth": ({f"{ROOTS}.DEPTH": 19}, f"{ROOTS}.DEPTH: '19', expected one of 18 34 50 101 152"),
    "no iteration's steps": ({"SOLVER.STEPS": None}, "SOLVER.STEPS: None, expected a list"),
    "no batch": ({"SOLVER.IMS_PER_BATCH": None}, "IMS_PER_BATCH: None, expected an integer"),
    "no architecture": (
        {"MODEL.META_ARCHITECTURE": None},
        "MODEL.META_ARCHITECTURE: None, expected text",
    ),
    "no heads": ({"MODEL.ROI_HEADS.NAME": None}, "MODEL.ROI_HEADS.NAME: None, expected text"),
    "no device": ({"MODEL.DEVICE": None}, "MODEL.DEVICE: None, expected text"),
    "no output": ({"OUTPUT_DIR": None}, "OUTPUT_DIR: None, expected text"),
    "NUL": ({"OUTPUT_DIR": "a\0b"}, r"OUTPUT_DIR: 'a\x00b', expected text without a NUL byte"),
    "no weights": ({"MODEL.WEIGHTS": None}, "MODEL.WEIGHTS: None, expected text"),
    "momentum": ({"SOLVER.MOMENTUM": -1.0}, "SOLVER.MOMENTUM: -1.0, expected 0 or more"),
    "clipping": ({"SOLVER.CLIP_GRADIENTS.CLIP_VALUE": -1.0}, "CLIP_VALUE: -1.0, expected more th"),
    "sizes": ({"INPUT.MIN_SIZE_TRAIN": ()}, "INPUT.MIN_SIZE_TRAIN: (), expected integers from 0"),
    "test size": ({"INPUT.MIN_SIZE_TEST": -1}, "INPUT.MIN_SIZE_TEST: -1, expected 0 or more"),
    "masks": ({"INPUT.MASK_FORMAT": "rle"}, "INPUT.MASK_FORMAT: 'rle', expected one of polygon"),
    "expected results": ({"TEST.EXPECTED_RESULTS": [["a"]]}, "TEST.EXPECTED_RESULTS: [['a']], exp"),
    "augmented test": ({"TEST.AUG.ENABLED": True}, "TEST.AUG.ENABLED: True, expected False"),
    "a node": ({"SOLVER": {}}, "SOLVER: has keys of its own, expected one such as SOLVER."),
    "device": ({"MODEL.DEVICE": "tpu"}, "MODEL.DEVICE: 'tpu', expected cuda or cpu"),
    "batch": ({"SOLVER.IMS_PER_BATCH": 0}, "SOLVER.IMS_PER_BATCH: 0"),
    "two rules": (
        {"SOLVER.REFERENCE_BATCH": 16, "SOLVER.REFERENCE_WORLD_SIZE": 8},
        "SOLVER.REFERENCE_WORLD_SIZE",
    ),
    "steps": ({"SOLVER.STEPS": (2, 1)}, "SOLVER.STEPS: (2, 1), expected iterations, each later"),
    "no iteration": ({"SOLVER.MAX_ITER": 0}, "SOLVER.MAX_ITER: 0, expected 1 or more"),
    "learning rate": ({"SOLVER.BASE_LR": -0.1}, "SOLVER.BASE_LR: -0.1, expected 0 or more"),
    "scheduler": ({"SOLVER.LR_SCHEDULER_NAME": "Cosine"}, "SOLVER.LR_SCHEDULER_NAME: 'Cosine'"),
    "non-finite": ({"SOLVER.NONFINITE": "ignore"}, "SOLVER.NONFINITE: 'ignore', expected one of"),
    "frozen norms": ({f"{ROOTS}.NORM": "FrozenBN"}, "FrozenBN"),
    "dtype": ({"TEST.DTYPE": "float16"}, "TEST.DTYPE: 'float16', expected"),
    "counter": ({"TEST.PANOPTIC.COUNTER": "fast"}, "TEST.PANOPTIC.COUNTER: 'fast', expected one"),
    "workers": ({"DATALOADER.NUM_WORKERS": -1}, "DATALOADER.NUM_WORKERS: -1, expected 0 or more"),
    "sampler": ({"DATALOADER.SAMPLER_TRAIN": "Random"}, "DATALOADER.SAMPLER_TRAIN: 'Random'"),
    "no data": ({"DATASETS.TRAIN": ()}, "DATASETS.TRAIN: empty, expected the name of a data set"),
    "unknown data": ({"DATASETS.TRAIN": ("coco",)}, "'coco'"),
    "custom data": (
        {"DATASETS.CUSTOM": [{"NAME": "mine"}], "DATASETS.TRAIN": ("mine",)},
        "DATASETS.CUSTOM",
    ),
    "output": ({"OUTPUT_DIR": "/dev/null/run"}, "OUTPUT_DIR: /dev/null"),
    "W&B": ({"WANDB.ENABLED": True, "WANDB.PROJECT": ""}, "WANDB"),
    "flag": (["--resume-it"], "--resume-it"),
    "processes": (["--num-procs", "0"], "--num-procs 0: expected 1 or more"),
    "machines": (["--num-machines", "0"], "--num-machines 0: expected 1 or more"),
    "machine": (["--machine-rank", "1"], "--machine-rank 1: expected 0 to 0"),
    "address": (["--dist-url", "localhost:1"], "--dist-url localhost:1: expected auto, tcp://"),
    "address of two": (["--num-machines", "2"], "--dist-url auto with --num-machines 2"),
    "address in no folder": (
        ["--num-gpus", "2", "--dist-url", "file:///nonexistent/dir/x"],
        "--dist-url file:///nonexistent/dir/x: /nonexistent/dir: no such folder",
    ),
    "gpus": (["--num-gpus", "-1"], "--num-gpus -1"),
}


def answer(capsys, words):
    """Return the status and stderr's lines of the run's command line."""
    main = load_tool("tools/train_net.py").main
    status = main(list(map(str, words)))
    return status, capsys.readouterr().err.splitlines()


def assert_one_line(capsys, words, *parts):
    status, lines = answer(capsys, words)
    assert status == BAD_INPUT, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for part in parts:
        assert str(part) in lines[0]


def overrides(tmp_path, changes=()):
    settings = {**BASE, "OUTPUT_DIR": tmp_path / "run", **dict(changes)}
    return [str(word) for pair in settings.items() for word in pair]


@pytest.mark.parametrize(("given", "part"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_bad_configurations(datasets_root, tmp_path, capsys, given, part):
    if isinstance(given, dict):
        options, words = [], overrides(tmp_path, given)
    elif given[0].startswith("-"):
        options, words = given, overrides(tmp_path)
    else:
        options, words = [], given
    assert_one_line(capsys, ["--config-file", TINY["ocr"], *options, *words], part)
    assert not (tmp_path / "run/model_final.pth").exists()


# Of a config file: its content, None for none; and what stands in the line, beside its name.
CONFIG_FILES = {
    "missing": (None, "no such file"),
    "binary": (b"\x80\x02}q\x00.", "expected a yaml config"),
    "tabs": (b"MODEL:\n\tMASK_ON: True\n", "expected a yaml config"),
    "a list": (b"- MODEL\n", "a list, expected keys of the config"),
    "no config": (b"a picture\n", "a str, expected keys of the config"),
    "unknown key": (b"MODEL: {COLOUR: red}\n", "COLOUR"),
    "wrong type": (b"SOLVER: {STEPS: soon}\n", "SOLVER.STEPS: soon, expected a list"),
    "missing base": (b"_BASE_: nowhere.yaml\n", "nowhere.yaml"),
    "empty": (b"", "empty, expected keys of the config"),
    "latin": ("SEED: é\n".encode("latin-1"), "no utf-8 text, expected a yaml config"),
    "base is no name": (b"_BASE_: [1]\n", "_BASE_: [1], expected the path of a config file"),
    "base of itself": (b"_BASE_: mine.yaml\n", "is based on itself, expected another file"),
    "empty node": (b"SOLVER:\n", "SOLVER: nothing in it, expected keys such as SOLVER."),
    "code": (b"MODEL: !!python/object/apply:os.getcwd []\n", ""),
}


@pytest.mark.parametrize(("content", "part"), CONFIG_FILES.values(), ids=CONFIG_FILES)
def test_bad_config_files(tmp_path, capsys, content, part):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    assert_one_line(capsys, ["--config-file", path], "mine.yaml", part)


# Of weights: what writes them; and what stands in the line.
WEIGHTS = {
    "missing": (lambda path: None, "does not exist, expected a checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), ""),
    "text": (lambda path: path.write_text("<html>404</html>"), ""),
    "cut": (lambda path: path.write_bytes(_saved(path)[:-100]), ""),
    "folder": (lambda path: path.mkdir(), ""),
    "other model": (lambda path: torch.save({"model": {"x": torch.zeros(1)}}, path), ""),
    "code": (lambda path: torch.save({"model": {}, "run": print}, path), "print"),
}


def _saved(path):
    torch.save({"model": {"weight": torch.zeros(99)}}, path)
    return path.read_bytes()


@pytest.mark.parametrize(("write", "part"), WEIGHTS.values(), ids=WEIGHTS)
def test_bad_weights(datasets_root, tmp_path, capsys, write, part):
    path = tmp_path / "weights.pth"
    write(path)
    words = overrides(tmp_path, {"MODEL.WEIGHTS": path})
    status, lines = answer(capsys, ["--config-file", TINY["ocr"], *words])
    assert status == BAD_INPUT
    # A training tells its log, and what torch found of the machine, before it reads weights.
    assert "weights.pth" in lines[-1]
    assert part in lines[-1]
    assert lines[-1].startswith("error: ")
    assert not any(line.startswith("Traceback") for line in lines)


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Of a data set: what breaks it, given its folder; and what stands in the line.
DATA = {
    "no json": (
        lambda root: (root / "annotations/panoptic_train.json").unlink(),
        "panoptic_train.json",
    ),
    "cut json": (
        lambda root: (root / "annotations/panoptic_train.json").write_text('{"images": ['),
        "panoptic_train.json",
    ),
    "no annotations": (
        lambda root: _edit(
            root / "annotations/panoptic_train.json", lambda c: c.pop("annotations")
        ),
        "annotations",
    ),
    "no images": (lambda root: shutil.rmtree(root / "train"), "train"),
}


@pytest.mark.parametrize(("spoil", "part"), DATA.values(), ids=DATA)
def test_bad_data(datasets_root, tmp_path, capsys, request, spoil, part):
    root = tmp_path / "shapes"
    shutil.copytree(datasets_root / "shapes_easy", root)
    spoil(root)
    name = f"spoilt_{request.node.callspec.id.replace(' ', '_')}"
    register_shapes(name, root, "train", "easy")
    words = overrides(tmp_path, {"DATASETS.TRAIN": (f"{name}_separated",)})
    assert_one_line(capsys, ["--config-file", TINY["ocr"], *words], part)


def test_a_config_that_a_run_wrote_is_no_list_of_code(datasets_root, tmp_path, capsys):
    """Whoever gives a config away does not say that its checkpoint is trusted."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"_BASE_": str(TINY["ocr"]), "MODEL": {"TRUST_CHECKPOINT": True}})
    )
    weights = tmp_path / "weights.pth"
    torch.save({"model": {}, "run": socket.socket}, weights)
    words = overrides(tmp_path, {"MODEL.WEIGHTS": weights})
    status, lines = answer(capsys, ["--config-file", path, *words])
    assert status == BAD_INPUT
    assert "socket" in lines[-1]


def test_the_table_is_long_enough():
    assert sum(map(len, (CONFIGURATIONS, CONFIG_FILES, WEIGHTS, DATA))) >= 40
