"""Every config: it loads, builds, says what its name says, and is in the model zoo table."""

import ast
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from ocr_panoptic import add_ocr_panoptic_config, config
from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.engine.setup import load_config

from ..conftest import REPOSITORY
from ..models import CONFIGS

FILES = sorted(CONFIGS.glob("*/*.yaml"))
CHILDREN = [path for path in FILES if not path.name.startswith("Base-")]
OCR_KEYS = re.compile(r"sem_seg_head\.ocr(_transform|_predictor)?\.")


def names(paths):
    return [f"{path.parent.name}/{path.stem}" for path in paths]


def test_there_are_configs():
    assert len(FILES) >= 8
    assert len(CHILDREN) >= 6


class NoDuplicates(yaml.SafeLoader):
    """Refuses a key that is given twice, of which yaml would silently keep the second."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate keys in {node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_yaml_is_plain(path):
    text = path.read_text()
    content = yaml.load(text, NoDuplicates)
    base = content.get("_BASE_")
    assert (base is None) == path.name.startswith("Base-")
    if base is not None:
        # Depth at most 2, inside the folder.
        assert Path(base).name == base
        assert "_BASE_" not in yaml.safe_load((path.parent / base).read_text())


def test_duplicate_keys_are_found():
    with pytest.raises(AssertionError, match="duplicate keys"):
        yaml.load("a: 1\na: 2\n", NoDuplicates)


@pytest.mark.parametrize("path", CHILDREN, ids=names(CHILDREN))
def test_content_is_what_the_name_says(path):
    cfg = load_config(str(path), [])
    solver = cfg.SOLVER
    assert list(solver.STEPS) == sorted(solver.STEPS)
    assert solver.STEPS[-1] < solver.MAX_ITER
    assert ("ocr" in path.stem) == (cfg.MODEL.SEM_SEG_HEAD.NAME == "OCRSemSegFPNHead")
    if depth := re.search(r"_R_(\d+)", path.stem):
        assert int(depth[1]) == cfg.MODEL.RESNETS.DEPTH
        assert cfg.MODEL.WEIGHTS.endswith(f"MSRA/R-{depth[1]}.pkl")
    if path.stem.endswith("_3x"):
        assert (solver.MAX_ITER, solver.STEPS) == (270000, (210000, 250000))
        assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (16, 0.02)
    loss_weight = cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT
    if "ocr" in path.stem:
        # The paper: 0.25 on each of two losses.
        assert (loss_weight, cfg.MODEL.SEM_SEG_HEAD.OCR.AUX_LOSS_WEIGHT) == (0.25, 0.25)
    else:
        assert loss_weight == 0.5


@pytest.mark.parametrize("path", CHILDREN, ids=names(CHILDREN))
def test_is_in_the_model_zoo_table(path):
    table = (CONFIGS / "README.md").read_text()
    assert f"]({path.relative_to(CONFIGS)})" in table


def test_the_model_zoo_table_names_no_missing_config():
    linked = re.findall(r"\]\(([^)#:]+\.yaml)\)", (CONFIGS / "README.md").read_text())
    assert linked
    assert all((CONFIGS / name).is_file() for name in linked)


@pytest.mark.parametrize("path", CHILDREN, ids=names(CHILDREN))
def test_builds(path):
    model = build_model(load_config(str(path), ["MODEL.DEVICE", "cpu"]))
    has_ocr = any(OCR_KEYS.match(key) for key in model.state_dict())
    assert has_ocr == ("ocr" in path.stem)


def stock_config(depth):
    return model_zoo.get_config(f"COCO-PanopticSegmentation/panoptic_fpn_R_{depth}_3x.yaml")


@pytest.mark.parametrize("depth", [50, 101])
def test_baseline_is_detectron2s_own(depth):
    path = CONFIGS / f"COCO-PanopticSegmentation/panoptic_fpn_R_{depth}_3x.yaml"
    ours, stock = load_config(str(path), []), stock_config(depth)
    with_our_keys = get_cfg()
    add_ocr_panoptic_config(with_our_keys)
    for cfg in (ours, stock):
        cfg.MODEL.DEVICE = "cpu"
        cfg.MODEL.SEM_SEG_HEAD.OCR = with_our_keys.MODEL.SEM_SEG_HEAD.OCR
    assert ours.dump() == stock.dump()


def test_a_model_zoo_checkpoint_fits_but_for_the_ocr_stage(tmp_path):
    stock = stock_config(50)
    stock.MODEL.DEVICE = "cpu"
    zoo = build_model(stock).state_dict()
    torch.save({"model": zoo}, tmp_path / "model_final_c10459.pth")

    path = CONFIGS / "COCO-PanopticSegmentation/panoptic_fpn_ocr_R_50_3x.yaml"
    model = build_model(load_config(str(path), ["MODEL.DEVICE", "cpu"]))
    ours = model.state_dict()
    assert set(zoo) <= set(ours)
    assert all(zoo[key].shape == ours[key].shape for key in zoo)
    new = set(ours) - set(zoo)
    assert new
    assert all(OCR_KEYS.match(key) for key in new)

    checkpointer = Checkpointer(model)
    reported = []
    checkpointer._log_incompatible_keys = reported.append
    checkpointer.load(str(tmp_path / "model_final_c10459.pth"))
    (incompatible,) = reported
    assert incompatible.unexpected_keys == []
    assert incompatible.incorrect_shapes == []
    # Counters of BatchNorm are no weights, and torch does not miss them.
    assert set(incompatible.missing_keys) == {key for key in new if "num_batches" not in key}
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], zoo[key]) for key in zoo)


def test_our_keys_leave_stock_models_unchanged():
    cfg = get_cfg()
    before = cfg.clone()
    add_ocr_panoptic_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.pop("OCR")
    cfg.MODEL.DEVICE = before.MODEL.DEVICE
    assert cfg.dump() == before.dump()


def test_device_is_what_there_is(monkeypatch):
    for available, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        cfg = get_cfg()
        add_ocr_panoptic_config(cfg)
        assert device == cfg.MODEL.DEVICE


def test_every_key_has_a_comment_and_a_reader():
    source = Path(config.__file__).read_text()
    lines = source.splitlines()
    assignments = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)
    ]
    keys = [node.targets[0].attr for node in assignments]
    assert {"CHANNELS", "KEY_CHANNELS", "DROPOUT", "NORM", "AUX_LOSS_WEIGHT"} <= set(keys)
    readers = "".join(
        path.read_text()
        for path in (REPOSITORY / "ocr_panoptic").rglob("*.py")
        if path != Path(config.__file__)
    )
    for node, key in zip(assignments, keys, strict=True):
        if not isinstance(node.value, ast.Call):  # a node, whose keys have comments
            assert lines[node.lineno - 2].lstrip().startswith("#"), key
        assert re.search(rf"\.{key}\b", readers), key
