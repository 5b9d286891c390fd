"""Every config: it loads, builds, says what its name says, and is in the model zoo table."""

import ast
import re
from pathlib import Path

import detectron2
import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from ocr_panoptic import add_ocr_panoptic_config, config
from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.engine.values import check_values

from ..conftest import REPOSITORY
from ..models import CONFIGS

FILES = sorted(CONFIGS.glob("*/*.yaml"))
CHILDREN = [path for path in FILES if not path.name.startswith("Base-")]
PANOPTIC = [path for path in CHILDREN if "Panoptic" in path.parent.name]
# MAX_ITER and STEPS, for 16 images an iteration.
SCHEDULES = {
    "1x": (90000, (60000, 80000)),
    "2x": (180000, (120000, 160000)),
    "3x": (270000, (210000, 250000)),
}
# Panoptic configs whose head takes its context from the registry.
CONTEXT_HEADS = re.compile(r"_(ppm|aspp)_|_(ocr|gt_ocr)_hard$")
OCR_KEYS = re.compile(r"sem_seg_head\.ocr(_transform|_predictor)?\.")


def names(paths):
    return [f"{path.parent.name}/{path.stem}" for path in paths]


def test_there_are_configs():
    assert len(FILES) >= 22
    assert len(CHILDREN) >= 18


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
    if depth := re.search(r"_R_(\d+)", path.stem):
        assert int(depth[1]) == cfg.MODEL.RESNETS.DEPTH
        assert cfg.MODEL.WEIGHTS.endswith(f"MSRA/R-{depth[1]}.pkl")
    if schedule := re.search(r"_([123]x)$", path.stem):
        assert SCHEDULES[schedule[1]] == (solver.MAX_ITER, solver.STEPS)
        assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (16, 0.02)
        assert solver.WEIGHT_DECAY == 1e-4
    context = re.search(r"_(isa|nl)_", path.stem)
    assert {"isa": "isa", "nl": "non_local", None: ""}[context and context[1]] == (
        cfg.MODEL.RESNETS.CONTEXT.NAME
    )
    needs_masks = context is not None or "ocr" in path.stem or CONTEXT_HEADS.search(path.stem)
    assert cfg.MODEL.META_ARCHITECTURE.startswith("PaddingAware") == bool(needs_masks)
    is_panoptic = "Panoptic" in path.parent.name
    assert cfg.MODEL.META_ARCHITECTURE.endswith("PanopticFPN" if is_panoptic else "GeneralizedRCNN")
    check_values(cfg, train=True, processes=1)


@pytest.mark.parametrize("path", PANOPTIC, ids=names(PANOPTIC))
def test_losses_sum_to_half(path):
    head = load_config(str(path), []).MODEL.SEM_SEG_HEAD
    if CONTEXT_HEADS.search(path.stem):
        name = re.fullmatch(r"panoptic_fpn_(.+?)(_R_\d+_3x|_hard)", path.stem)[1]
        assert ("ContextSemSegFPNHead", name) == (head.NAME, head.CONTEXT.NAME)
        # One loss of 0.5, of which the one on the regions is a part.
        assert (head.LOSS_WEIGHT, head.CONTEXT.REGION_LOSS_WEIGHT) == (0.5, 0.25)
    elif "ocr" in path.stem:
        assert head.NAME == "OCRSemSegFPNHead"
        # The paper: 0.25 on each of two losses.
        assert (head.LOSS_WEIGHT, head.OCR.AUX_LOSS_WEIGHT) == (0.25, 0.25)
    else:
        assert (head.NAME, head.LOSS_WEIGHT) == ("SemSegFPNHead", 0.5)


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
    keys = model.state_dict()
    in_head = bool(CONTEXT_HEADS.search(path.stem))
    assert any(OCR_KEYS.match(key) for key in keys) == ("ocr" in path.stem and not in_head)
    assert any(key.startswith("sem_seg_head.context") for key in keys) == in_head
    in_backbone = any(re.match(r"backbone\..*\.context\.", key) for key in keys)
    assert in_backbone == bool(re.search("_(isa|nl)_", path.stem))


def model_zoo_config(name):
    # Not by detectron2.model_zoo, which does not work on every stack.
    cfg = get_cfg()
    cfg.merge_from_file(str(Path(detectron2.__file__).parent / f"model_zoo/configs/{name}.yaml"))
    return cfg


def stock_config(depth):
    return model_zoo_config(f"COCO-PanopticSegmentation/panoptic_fpn_R_{depth}_3x")


@pytest.mark.parametrize(
    ("name", "stock_name", "schedule"),
    [
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_3x", None, "3x"),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_101_3x", None, "3x"),
        (
            "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
            "Detectron1-Comparisons/mask_rcnn_R_50_FPN_noaug_1x",
            "1x",
        ),
        (
            "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_2x",
            "Detectron1-Comparisons/mask_rcnn_R_50_FPN_noaug_1x",
            "2x",
        ),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x", None, "3x"),
    ],
)
def test_baseline_is_detectron2s_own(name, stock_name, schedule):
    ours = load_config(str(CONFIGS / f"{name}.yaml"), [])
    stock = model_zoo_config(stock_name or name)
    stock.SOLVER.MAX_ITER, stock.SOLVER.STEPS = SCHEDULES[schedule]
    for cfg in (ours, stock):
        cfg.MODEL.DEVICE = "cpu"
        without_our_keys(cfg)
    assert ours.dump() == stock.dump()


def without_our_keys(cfg):
    cfg.MODEL.SEM_SEG_HEAD.pop("OCR", None)
    cfg.MODEL.SEM_SEG_HEAD.pop("CONTEXT", None)
    cfg.MODEL.RESNETS.pop("CONTEXT", None)
    cfg.DATASETS.pop("CUSTOM", None)
    cfg.DATASETS.pop("CACHE", None)
    cfg.TEST.pop("PANOPTIC", None)
    cfg.TEST.pop("DTYPE", None)
    cfg.pop("WANDB", None)
    cfg.DATALOADER.pop("RANDOM_SUBSET_RATIO", None)
    cfg.SOLVER.AMP.pop("DTYPE", None)
    for key in ("REFERENCE_BATCH", "NONFINITE", "NONFINITE_SKIPS"):
        cfg.SOLVER.pop(key, None)
    for key in ("ALLOW_MISSING", "ALLOW_UNUSED", "TRUST_CHECKPOINT"):
        cfg.MODEL.pop(key, None)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("context", ["isa", "nl"])
def test_a_context_changes_nothing_else(context, schedule):
    folder = CONFIGS / "COCO-InstanceSegmentation"
    ours = load_config(str(folder / f"mask_rcnn_{context}_R_50_FPN_{schedule}.yaml"), [])
    baseline = load_config(str(folder / f"mask_rcnn_R_50_FPN_{schedule}.yaml"), [])
    assert ours.MODEL.RESNETS.CONTEXT.STAGE == "res4"
    assert ours.MODEL.RESNETS.CONTEXT.PARTITIONS == (8, 8)
    ours.MODEL.META_ARCHITECTURE = baseline.MODEL.META_ARCHITECTURE
    ours.MODEL.BACKBONE.NAME = baseline.MODEL.BACKBONE.NAME
    ours.MODEL.RESNETS.CONTEXT.NAME = ""
    assert ours.dump() == baseline.dump()


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
    without_our_keys(cfg)
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
