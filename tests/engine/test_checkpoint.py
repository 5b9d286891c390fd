"""The checkpointer: what it takes, what it says where keys differ, and that saving is safe."""

import json
import logging
import os
import pickle
import re
import resource
import shutil
import time
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathHandler, PathManager
from PIL import Image
from torch import nn

from ocr_panoptic.config import ALLOW_MISSING, ALLOW_UNUSED
from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.errors import BAD_INPUT, InputError

from ..conftest import REPOSITORY, load_tool
from ..models import SMALL, TINY, small_config, small_model
from .exploits import EXPLOITS, REASONS, SYSTEM

PREFIXES = {
    "backbone.fpn_*",
    "proposal_generator",
    "roi_heads",
    "sem_seg_head",
    "sem_seg_head.ocr*",
}


@pytest.fixture(scope="module")
def weights():
    return small_model("ocr", seed=7).state_dict()


@pytest.fixture
def model(weights):
    return small_model("ocr", seed=8)


@pytest.fixture
def load(model, tmp_path, caplog):
    """A function that saves weights, loads them into the model, and returns the warnings."""

    def save_and_load(weights, name="x.pth", **kwargs):
        path = tmp_path / name
        if name.endswith(".pkl"):
            path.write_bytes(pickle.dumps(weights, protocol=2))
        else:
            torch.save(weights, path)
        caplog.clear()
        Checkpointer(model, **kwargs).load(str(path))
        records = [r for r in caplog.records if r.name == "fvcore.common.checkpoint"]
        return [r.getMessage() for r in records if r.levelno == logging.WARNING]

    return save_and_load


def without(weights, pattern):
    return {key: value for key, value in weights.items() if not re.search(pattern, key)}


def equal(model, weights):
    loaded = model.state_dict()
    return all(torch.equal(loaded[key], weights[key]) for key in weights)


def caffe2_name(key):
    key = key.removeprefix("backbone.bottom_up.").replace(".norm.weight", ".bn.s")
    key = key.replace(".norm.bias", ".bn.b").replace("stem.conv1.bn.", "res.conv1.bn.")
    key = re.sub(r"\.norm\.running_mean$", ".bn.rm", key)
    key = re.sub(r"\.norm\.running_var$", ".bn.riv", key)
    for name, branch in (("shortcut", "branch1"), ("conv1", "branch2a"), ("conv2", "branch2b")):
        key = re.sub(rf"^(res\d\.\d)\.{name}\.", rf"\1.{branch}.", key)
    key = re.sub(r"^stem\.conv1\.", "conv1.", key)
    return re.sub(r"\.weight$", ".w", key).replace(".", "_")


def imagenet(weights, *, merged=True):
    """Weights of the bottom-up as the ImageNet ResNets of Detectron2's model zoo name them."""
    left_out = "running|num_batches" if merged else "num_batches"
    bottom_up = {key: weights[key] for key in weights if "bottom_up" in key}
    blobs = {caffe2_name(key): value.numpy() for key, value in without(bottom_up, left_out).items()}
    classes = {
        "fc1000_w": np.zeros((10, 512), np.float32),
        "fc1000_b": np.zeros(10, np.float32),
        # In front of a norm, in the file of ResNet-50.
        "conv1_b": np.zeros(len(blobs["conv1_w"]), np.float32),
        "fc1000_w_momentum": np.zeros(1, np.float32),
    }
    return {**blobs, **classes}


def test_a_whole_checkpoint_says_nothing(load, model, weights):
    assert load({"model": weights}) == []
    assert equal(model, weights)
    # As DistributedDataParallel saves it, and alone.
    assert load({f"module.{key}": value for key, value in weights.items()}) == []


def test_imagenet_weights_start_a_detector(load, model, weights):
    lines = load({"blobs": imagenet(weights)}, "R-18.pkl")
    assert {line.partition(":")[0] for line in lines[:-2]} == PREFIXES
    assert "sem_seg_head.ocr*: 42 of 42 keys are new, not in the checkpoint" in lines
    assert re.match(r"40 means and variances of batch norms .* merged into weight", lines[-2])
    assert lines[-1] == "not used: fc1000.bias, fc1000.weight, stem.conv1.bias"
    learnt = {k: v for k, v in weights.items() if "bottom_up" in k}
    assert equal(model, without(learnt, "running|num_batches"))


def test_imagenet_weights_with_their_statistics(load, model, weights):
    changed = {k: v + 1 if "running" in k else v for k, v in weights.items()}
    lines = load(imagenet(changed, merged=False), "R-18.pkl")
    assert not any("means and variances" in line for line in lines)
    assert equal(model, without({k: v for k, v in changed.items() if "bottom_up" in k}, "batches"))


def test_a_classifier_of_torchvision_goes_unused(load, model, weights):
    named = {k.removeprefix("backbone.bottom_up."): v for k, v in weights.items() if "bottom" in k}
    named["stem.fc.weight"] = torch.zeros(10, 512)
    content = {
        "model": {key: value.numpy() for key, value in named.items()},
        "__author__": "torchvision",
        "matching_heuristics": True,
    }
    assert load(content, "r18.pkl")[-1] == "not used: stem.fc.weight"
    assert equal(model, {key: value for key, value in weights.items() if "bottom_up" in key})


def test_heuristics_on_request(load, model, weights, tmp_path):
    named = {k.removeprefix("backbone.bottom_up."): v for k, v in weights.items() if "bottom" in k}
    torch.save(named, tmp_path / "y.pth")
    with pytest.raises(InputError, match="no key of the checkpoint is one of the model's"):
        Checkpointer(model).load(str(tmp_path / "y.pth"))
    Checkpointer(model).load(f"{tmp_path / 'y.pth'}?matching_heuristics=True")
    assert equal(model, {key: value for key, value in weights.items() if "bottom_up" in key})
    with pytest.raises(InputError, match=r"y\.pth: other behind its '\?', expected matching_heur"):
        Checkpointer(model).load(f"{tmp_path / 'y.pth'}?other=1")


def test_the_pickle_of_a_model_zoo_starts_ocr(load, model, weights):
    zoo = {key: value.numpy() for key, value in without(weights, r"head\.ocr").items()}
    zoo["pixel_mean"] = np.zeros((3, 1, 1), np.float32)
    zoo["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    lines = load({"model": zoo, "__author__": "Detectron2 Model Zoo"}, "model_final_c10459.pkl")
    assert lines == ["sem_seg_head.ocr*: 42 of 42 keys are new, not in the checkpoint"]
    assert equal(model, without(weights, r"head\.ocr"))


def test_mask_r_cnn_starts_isa(tmp_path, caplog):
    torch.save({"model": small_model("mask_rcnn").state_dict()}, tmp_path / "x.pth")
    Checkpointer(small_model("isa", seed=1)).load(str(tmp_path / "x.pth"))
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == 1
    assert re.match(r"backbone\.bottom_up\.\*\.context: (\d+) of \1 keys are new", lines[0])


def test_pycls_checkpoints(load, model, weights):
    named = {k.removeprefix("backbone.bottom_up."): v for k, v in weights.items() if "bottom" in k}
    load({"model_state": {**named, "head.fc.weight": torch.zeros(3)}}, "x.pyth")
    assert equal(model, {key: value for key, value in weights.items() if "bottom_up" in key})


def test_layers_for_other_classes_start_anew(load, weights):
    changed = {
        **weights,
        "sem_seg_head.predictor.weight": torch.zeros(54, 32, 1, 1),
        "sem_seg_head.predictor.bias": torch.zeros(54),
    }
    assert load({"model": changed}) == [
        "sem_seg_head.predictor starts anew: 54x32x1x1 in the checkpoint, 7x32x1x1 in the model"
    ]


CONV = "backbone.bottom_up.res2.0.conv1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, CONV), rf"1 of the model's keys are missing \({CONV}\); expected "),
        (
            lambda w: {**w, CONV: torch.zeros(3)},
            rf"1 have another shape \({CONV}: 3 in the checkpoint, \d+x\d+x3x3 in the model\)",
        ),
        (
            lambda w: {key.replace("bottom_up", "body"): value for key, value in w.items()},
            r"100 of the model.s keys are missing \(backbone.bottom.*stem.*, \.\.\.\), 100 of the "
            r"checkpoint's keys are not used \(backbone.body.*MISSING and MODEL.ALLOW_UNUSED",
        ),
        (
            lambda w: without(w, r"res3.*running_mean"),
            r"\d+ of the model's keys are missing \(backbone.bottom_up.res3.*running_mean",
        ),
        (
            lambda w: {**w, "sem_seg_head.psp.weight": torch.zeros(3)},
            r"1 of the checkpoint's keys are not used \(sem_seg_head.psp.weight\); expected "
            r"another checkpoint or model, or their prefixes in MODEL.ALLOW_UNUSED$",
        ),
        (
            lambda w: {**w, "fcx.weight": torch.zeros(3)},
            r"1 of the checkpoint's keys are not used \(fcx.weight\)",
        ),
        (lambda w: {"other": torch.zeros(1)}, "no key of the checkpoint is .*; it holds other"),
        (lambda w: {}, "no key of the checkpoint is one of the model's; it holds nothing"),
    ],
)
def test_what_stops_a_run(load, weights, tmp_path, change, message):
    with pytest.raises(InputError, match=f"^MODEL.WEIGHTS: {tmp_path}/x.pth: {message}"):
        load({"model": change(weights)})


def test_an_imagenet_resnet_of_another_depth_stops_a_run(load, weights):
    blobs = imagenet(weights)
    blobs["res2_0_branch2a_w"] = np.zeros((64, 64, 1, 1), np.float32)
    with pytest.raises(InputError, match=rf"missing \({CONV}\), 1 of .* not used \(res2.0.conv1"):
        load(blobs, "R-50.pkl")


def test_what_may_be_missing_is_a_setting(load, weights):
    changed = {**without(weights, r"res2\.0"), "foo.weight": torch.zeros(1)}
    lines = load(
        {"model": changed},
        allow_missing=("backbone.bottom_up.res2",),
        allow_unused=("f*",),
    )
    assert re.match(r"backbone.bottom_up.res2: \d+ of \d+ keys are new", lines[0])
    assert lines[1:] == ["not used: foo.weight"]
    with pytest.raises(InputError, match=r"keys are missing .*sem_seg_head"):
        load({"model": without(weights, "sem_seg_head")}, allow_missing=())


def test_what_is_evaluated_must_be_whole(load, weights):
    with pytest.raises(InputError) as caught:
        load({"model": {k: v for k, v in weights.items() if "bottom_up" in k}}, complete=True)
    expected = (
        r"MODEL\.WEIGHTS: .*x\.pth: (\d+) of the model's \d+ keys are missing or have another "
        r"shape \((\d+) of backbone\.fpn_\*, (\d+) of proposal_generator, (\d+) of roi_heads, "
        r"(\d+) of sem_seg_head, (\d+) of sem_seg_head\.ocr\*\), and would be random; expected "
        r"weights of this config, or MODEL\.WEIGHTS '' for random ones"
    )
    total, *parts = map(int, re.fullmatch(expected, str(caught.value)).groups())
    assert total == sum(parts)
    changed = {**weights, "sem_seg_head.predictor.bias": torch.zeros(54)}
    with pytest.raises(InputError, match=r"keys are missing .* \(1 of sem_seg_head\), and would"):
        load({"model": changed}, complete=True)
    # Merged into weight and bias, they are as they should be.
    (line,) = load({"model": without(weights, r"bottom_up.*running")}, complete=True)
    assert "merged into weight and bias" in line
    with pytest.raises(InputError, match=r"\(16 of backbone.fpn_\*, 16 of sem_seg_head.ocr\*\)"):
        load({"model": without(weights, "running")}, complete=True)
    assert load({"model": weights}, complete=True) == []


@pytest.mark.parametrize("tool", ["train_net", "predict", "visualize"])
def test_command_lines_evaluate_no_random_part(datasets_root, weights, tmp_path, capsys, tool):
    path = tmp_path / "x.pth"
    torch.save({"model": without(weights, "sem_seg_head")}, path)
    Image.new("RGB", (48, 36)).save(tmp_path / "one.png")
    opts = ["--opts", *map(str, SMALL), "MODEL.WEIGHTS", str(path)]
    words = ["--config-file", str(TINY["ocr"]), "--input", str(tmp_path / "one.png")]
    words += ["--output", str(tmp_path / "out"), *opts]
    argv = {
        "train_net": arguments(tmp_path / "run", "--eval-only", **{"MODEL.WEIGHTS": path}),
        "predict": words,
        "visualize": ["relations", "--pixel", "1,1", *words],
    }[tool]
    assert load_tool(f"tools/{tool}.py").main(argv) == BAD_INPUT
    assert "of sem_seg_head.ocr*), and would be random; expected weights" in one_line(capsys)


def test_every_default_prefix_is_one_of_a_config():
    keys = set()
    for name, overrides in (
        ("ocr", ()),
        ("isa", ()),
        (
            "baseline",
            (
                *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
                *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "ppm", "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", ""),
            ),
        ),
    ):
        keys |= set(small_model(name, overrides).state_dict())
    # Of RetinaNet's pyramid.
    for prefix in set(ALLOW_MISSING) - {"backbone.top_block"}:
        pattern = re.escape(prefix).replace(r"\*", ".*")
        assert any(re.match(rf"{pattern}(\.|$)", key) for key in keys), prefix
    # Whatever is not in the bottom-up may start anew.
    allowed = re.compile("|".join(re.escape(p).replace(r"\*", ".*") for p in ALLOW_MISSING))
    assert all(allowed.match(key) or "bottom_up" in key for key in keys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], r"holds a list\), expected names and tensors, alone or in 'model'"),
        ({"model": 3}, "holds a int for its weights"),
        ({"state_dict": {}, "meta": {}}, "holds state_dict, a dict"),
        ({"model": {"a": 3}}, "holds a, a int"),
        ({"model": {3: torch.zeros(1)}}, "holds weights under something else than a name"),
        ({"model": {"\x1b[2J": torch.zeros(1)}}, "holds weights under something else"),
        ({"model": {"a" * 300: torch.zeros(1)}}, "holds weights under something else"),
        ({"model": {"a": np.array(["x"])}}, "holds a of <U1"),
    ],
)
def test_what_is_no_checkpoint(load, content, message):
    with pytest.raises(InputError, match=rf"^MODEL.WEIGHTS: .*x\.pth is no check.* \(.*{message}"):
        load(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"blobs": 3}, "holds a int for its blobs"),
        ({"blobs": {3: np.zeros(2)}}, "holds weights under something else"),
        ({"bbox_pred_w": np.array(3.0)}, r"names cannot be matched"),
        ({"a_b": np.zeros(1), "a.b": np.zeros(1)}, r"names cannot be matched"),
    ],
)
def test_caffe2_pickles_that_are_odd(load, content, message):
    with pytest.raises(InputError, match=rf"MODEL.WEIGHTS: .*x\.pkl.*{message}"):
        load(content, "x.pkl")


def test_addresses_go_the_same_way(tmp_path, monkeypatch, model, weights):
    class Downloads(PathHandler):
        def _get_supported_prefixes(self):
            return ["testing://"]

        def _get_local_path(self, path, **kwargs):
            name = path.removeprefix("testing://")
            if name == "unreachable":
                raise URLError("no route to host")
            if name == "broken":
                raise RuntimeError(f"{path} not available in the catalog!")
            return str(tmp_path / name)

    monkeypatch.setattr(
        PathManager, "_path_handlers", {**PathManager._path_handlers, "testing://": Downloads()}
    )
    torch.save({"model": weights}, tmp_path / "fine.pth")
    Checkpointer(model).load("testing://fine.pth")
    assert equal(model, weights)
    EXPLOITS["zoo pickle"][1](tmp_path / "bad.pkl", tmp_path / "written")
    for name, message in (
        ("bad.pkl", f": {tmp_path}/bad.pkl is refused"),
        ("absent", " does not exist, expected a checkpoint"),
        ("unreachable", r" cannot be downloaded \(no route to host\)"),
        ("broken", r" cannot be fetched \(.* not available in the catalog!\)"),
    ):
        with pytest.raises(InputError, match=f"^MODEL.WEIGHTS: testing://{name}{message}"):
            Checkpointer(model).load(f"testing://{name}")
    assert not (tmp_path / "written").exists()


def test_nothing_else_reads_checkpoints():
    # Detectron2's own readers are not reached: _load_file is ours for every name.
    assert "_load_file" in vars(Checkpointer)
    unsafe = re.compile(r"\b(torch\.load|torch\.jit\.load|pickle\.loads?|allow_pickle=True)\b")
    readers = {
        path.name
        for folder in ("ocr_panoptic", "tools", "datasets")
        for path in (REPOSITORY / folder).rglob("*.py")
        if unsafe.search(path.read_text()) or "DetectionCheckpointer(" in path.read_text()
    }
    assert readers == {"safe_load.py"}


@pytest.fixture(scope="module")
def train():
    return load_tool("tools/train_net.py").main


def arguments(output, *options, **overrides):
    settings = {
        **dict(zip(SMALL[::2], SMALL[1::2], strict=True)),
        "DATASETS.TRAIN": ("test_shapes_train_separated",),
        "DATASETS.TEST": (),
        "OUTPUT_DIR": output,
        "SOLVER.MAX_ITER": 1,
        "SOLVER.STEPS": (),
        **overrides,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    return ["--config-file", str(TINY["ocr"]), *options, *words]


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert not any(line.startswith("Traceback") for line in lines)
    return lines[-1]


@pytest.mark.parametrize("name", EXPLOITS)
def test_command_lines_refuse_exploits(train, datasets_root, tmp_path, capsys, name):
    file, write = EXPLOITS[name]
    write(tmp_path / file, tmp_path / "written")
    given = {"MODEL.WEIGHTS": tmp_path / file}
    assert train(arguments(tmp_path / "run", "--eval-only", **given)) == BAD_INPUT
    line = one_line(capsys)
    assert line.startswith(f"error: MODEL.WEIGHTS: {tmp_path / file} is refused")
    assert REASONS.get(name, SYSTEM) in line
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("tool", ["predict", "visualize"])
def test_other_command_lines_refuse_exploits_too(tmp_path, capsys, tool):
    EXPLOITS["torch zip"][1](tmp_path / "x.pth", tmp_path / "written")
    Image.new("RGB", (48, 36)).save(tmp_path / "one.png")
    words = {"predict": [], "visualize": ["relations", "--pixel", "1,1"]}[tool]
    words += ["--config-file", str(TINY["ocr"]), "--input", str(tmp_path / "one.png")]
    words += ["--output", str(tmp_path / "out")]
    opts = ["--opts", *map(str, SMALL), "MODEL.WEIGHTS", str(tmp_path / "x.pth")]
    main = load_tool(f"tools/{tool}.py").main
    assert main([*words, *opts]) == BAD_INPUT
    assert SYSTEM in one_line(capsys)
    assert not (tmp_path / "written").exists()
    assert main([*words, "--trust-checkpoint", *opts]) == BAD_INPUT
    assert "x.pth is no checkpoint" in one_line(capsys)
    assert (tmp_path / "written").exists()


def test_trust_is_given_on_the_command_line_alone(train, datasets_root, tmp_path, capsys, weights):
    path = tmp_path / "old.pth"
    torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)
    given = {"MODEL.WEIGHTS": path}
    assert train(arguments(tmp_path / "run", "--eval-only", **given)) == BAD_INPUT
    assert "it is of torch before 1.6" in one_line(capsys)
    assert train(arguments(tmp_path / "run", "--eval-only", "--trust-checkpoint", **given)) == 0
    log = (tmp_path / "run/log.txt").read_text()
    assert f"{path} is loaded although it could run any code: it is of torch before 1.6" in log
    # The run wrote its config, which says so, and gives no trust.
    config = tmp_path / "run/config.yaml"
    assert "TRUST_CHECKPOINT: true" in config.read_text()
    assert not load_config(str(config), []).MODEL.TRUST_CHECKPOINT
    assert load_config(str(config), ["MODEL.TRUST_CHECKPOINT", "True"]).MODEL.TRUST_CHECKPOINT


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ALLOW_MISSING", "(1,)", "expected prefixes of keys"),
        ("ALLOW_UNUSED", "('',)", "expected prefixes of keys"),
        ("ALLOW_UNUSED", "None", "expected a list"),
        ("TRUST_CHECKPOINT", "None", "expected True or False"),
    ],
)
def test_settings_that_cannot_be(train, datasets_root, tmp_path, capsys, key, value, expected):
    assert train(arguments(tmp_path, **{f"MODEL.{key}": value})) == BAD_INPUT
    assert f"MODEL.{key}: " in (line := one_line(capsys))
    assert expected in line


def test_config_values_reach_the_checkpointer(tmp_path, weights):
    cfg = small_config("ocr", ["MODEL.ALLOW_UNUSED", "('foo',)"])
    torch.save({"model": {**weights, "foo.x": torch.zeros(1)}}, tmp_path / "x.pth")
    Checkpointer.of_config(cfg, small_model()).load(str(tmp_path / "x.pth"))
    torch.save({"model": {**weights, "fc.x": torch.zeros(1)}}, tmp_path / "x.pth")
    Checkpointer(small_model()).load(str(tmp_path / "x.pth"))
    with pytest.raises(InputError, match=r"not used \(fc.x\)"):
        Checkpointer.of_config(cfg, small_model()).load(str(tmp_path / "x.pth"))
    assert "fc" in ALLOW_UNUSED


class Part(nn.Linear):
    """Something with a state of its own, as a trainer."""

    def __init__(self, size=2):
        super().__init__(size, 1)


def checkpointer(folder, size=2, **parts):
    torch.manual_seed(0)
    return Checkpointer(nn.Linear(size, 3), str(folder), **parts)


def resumed(folder, caplog, size=2, resume=True, path="", **parts):
    """Return what resume_or_load says, and the checkpoint's rest."""
    caplog.clear()
    caplog.set_level(logging.INFO, "fvcore.common.checkpoint")
    rest = checkpointer(folder, size, **parts).resume_or_load(path, resume=resume)
    lines = [r.getMessage() for r in caplog.records if "resumed" in r.getMessage()[:11]]
    assert len(lines) == 1
    return lines[0], rest


def test_one_line_says_whether_a_run_is_resumed(tmp_path, caplog):
    start = "starting from random weights at iteration 0"
    assert resumed(tmp_path, caplog, resume=False)[0] == (
        f"not resumed, as --resume was not given: {start}"
    )
    assert resumed(tmp_path, caplog)[0] == (
        f"not resumed, as {tmp_path} holds no checkpoint: {start}"
    )
    checkpointer(tmp_path, trainer=Part()).save("model_0000009", iteration=9)
    path = tmp_path / "model_0000009.pth"
    line, rest = resumed(tmp_path, caplog, trainer=Part())
    assert line == f"resumed from {path} at iteration 10"
    assert rest == {"iteration": 9}
    shutil.copy(path, tmp_path / "other.pth")
    line, _ = resumed(tmp_path, caplog, resume=False, path=str(tmp_path / "other.pth"))
    assert line == (
        f"not resumed, as --resume was not given, though {path} is there: starting from the "
        f"weights {tmp_path}/other.pth at iteration 0"
    )


def test_resuming_restores_every_part(tmp_path, caplog):
    saved, part = checkpointer(tmp_path), Part()
    saved.add_checkpointable("trainer", part)
    nn.init.constant_(part.weight, 5.0)
    nn.init.constant_(saved.model.weight, 6.0)
    saved.save("model_0000001", iteration=1)
    restored = checkpointer(tmp_path, trainer=Part())
    restored.resume_or_load("", resume=True)
    assert restored.model.weight.eq(6).all()
    assert restored.checkpointables["trainer"].weight.eq(5).all()


def test_what_is_resumed_must_match_entirely(tmp_path, caplog):
    path = tmp_path / "model_0000001.pth"

    def refused(message, size=2, **parts):
        expected = f"^--resume: {path}:? {message}"
        with pytest.raises(InputError, match=expected):
            resumed(tmp_path, caplog, size, **parts)

    saved = checkpointer(tmp_path, trainer=Part())
    saved.save("model_0000001", iteration=1)
    whole = torch.load(path)
    refused("1 have another shape .weight: 3x2 in the checkpoint, 3x4 in the model", size=4)
    refused("its trainer is not of this config .Error", trainer=Part(3))
    for change, message in (
        ({"model": {}}, "2 of the model's keys are missing .weight, bias.; expected a checkpoint"),
        ({"model": {**whole["model"], "fc.x": torch.zeros(1)}}, "1 of the checkpoint's .*fc.x"),
        ({"iteration": None}, "has no number of iterations"),
    ):
        torch.save({**whole, **change}, path)
        refused(message, trainer=Part())
    torch.save({"model": whole["model"]}, path)
    refused("has no iteration and no trainer, expected .* MODEL.WEIGHTS takes", trainer=Part())
    assert resumed(tmp_path, caplog)[0] == f"resumed from {path}"  # to evaluate
    path.write_bytes(path.read_bytes()[:200])
    refused("is no checkpoint")


def test_resuming_after_a_crash_at_any_moment(tmp_path, caplog):
    saved = checkpointer(tmp_path, trainer=Part())
    saved.save("model_0000001", iteration=1)
    saved.save("model_0000003", iteration=3)
    second = tmp_path / "model_0000003.pth"
    # Killed while the file was written: it has another name still.
    (tmp_path / ".model_0000005.pth.1.tmp").write_bytes(second.read_bytes()[:500])
    assert resumed(tmp_path, caplog, trainer=Part())[0].endswith("at iteration 4")
    # Power failed before the name of the last one was on the disk; or it was removed.
    stale = time.time() - 60
    os.utime(tmp_path / "model_0000001.pth", (stale, stale))
    for content in (b"", b"model_0000007.pth", b"../elsewhere.pth", b"\xff\x00"):
        (tmp_path / "last_checkpoint").write_bytes(content)
        assert resumed(tmp_path, caplog, trainer=Part())[0].endswith("at iteration 4")
    second.unlink()
    assert resumed(tmp_path, caplog, trainer=Part())[0].endswith("at iteration 2")
    # What the killed run left does not stay.
    saved.save("model_0000003", iteration=3)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("model_0000001.pth", "model_0000003.pth", "last_checkpoint")
    }


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor):
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def replaced(path, target):
        done.append(("name", Path(target).name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    checkpointer(tmp_path).save("model_0000001")
    assert [(what, re.sub(r"^\.|\.\d+\.tmp$", "", name)) for what, name in done] == [
        ("sync", "model_0000001.pth"),
        ("name", "model_0000001.pth"),
        ("sync", "last_checkpoint"),
        ("name", "last_checkpoint"),
        ("sync", tmp_path.name),
    ]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, caplog):
    small = checkpointer(tmp_path)
    small.save("model_0000001", iteration=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    large = Checkpointer(nn.Linear(400, 400), str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        for name in ("model_0000001", "model_0000002"):
            with pytest.raises(InputError) as caught:
                large.save(name, iteration=2)
            assert re.fullmatch(
                rf"{tmp_path}/{name}.pth: the checkpoint cannot be written \(.*\), \d+ MB are free,"
                rf" {tmp_path}/model_0000001.pth is the last one; expected a folder .*",
                str(caught.value),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert resumed(tmp_path, caplog)[0].endswith("model_0000001.pth at iteration 2")


def test_the_system_says_why_torch_cannot_write(tmp_path, monkeypatch):
    def write_nothing(data, path):
        path.mkdir()  # what cannot be written on
        raise RuntimeError("[enforce fail at inline_container.cc:595] . unexpected pos 128 vs 0")

    monkeypatch.setattr(torch, "save", write_nothing)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: path.rmdir())
    with pytest.raises(InputError, match=r"cannot be written \(Is a directory\), \d+ MB are free"):
        checkpointer(tmp_path).save("model_final")


def test_a_folder_in_place_of_the_last_name_is_named(tmp_path):
    checkpointer(tmp_path).save("model_0000001", iteration=1)
    name = tmp_path / "last_checkpoint"
    name.unlink()
    name.mkdir()
    for resume in (True, False):
        with pytest.raises(InputError, match=f"^{name}: is a folder, expected a file that names"):
            checkpointer(tmp_path).resume_or_load("", resume=resume)
    with pytest.raises(InputError) as caught:
        checkpointer(tmp_path).save("model_0000003", iteration=3)
    assert str(caught.value).startswith(f"{name}: the checkpoint cannot be written (Is a directory")
    assert f", {tmp_path}/model_0000003.pth is the last one; " in str(caught.value)


def test_there_must_be_something_to_evaluate(train, datasets_root, tmp_path, capsys):
    assert train(arguments(tmp_path, "--eval-only", "--resume")) == BAD_INPUT
    assert one_line(capsys) == (
        f"error: --resume: {tmp_path} holds no checkpoint, expected one to evaluate; without "
        "--resume MODEL.WEIGHTS is evaluated"
    )


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/model_final\.pth: the checkpoint cannot be wr"):
        checkpointer(tmp_path / "file").save("model_final")


def test_training_and_evaluation_resume(train, datasets_root, tmp_path, capsys):
    assert train(arguments(tmp_path)) == 0
    log = tmp_path / "log.txt"
    assert "not resumed, as --resume was not given: starting from random" in log.read_text()
    assert train(arguments(tmp_path, "--resume", **{"SOLVER.MAX_ITER": 2})) == 0
    assert f"resumed from {tmp_path}/model_final.pth at iteration 1" in log.read_text()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [0, 1]
    other = {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 64, "SOLVER.MAX_ITER": 3}
    assert train(arguments(tmp_path, "--resume", **other)) == BAD_INPUT
    assert re.search(r"--resume: .*model_final.pth: \d+ have another shape", one_line(capsys))
