"""A whole model, and its parts, beside Detectron2's, without data."""

import json

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.structures import BitMasks, PolygonMasks

from ocr_panoptic.benchmark import model as module
from ocr_panoptic.benchmark.model import measure_model
from ocr_panoptic.benchmark.model_report import format_model, report_model
from ocr_panoptic.benchmark.model_setup import (
    draw_inputs,
    our_model,
    settle,
    stock_config,
    stock_model,
)
from ocr_panoptic.errors import InputError

from ..models import CONFIGS, SMALL, TINY, small_config, small_model

OVERRIDES = [str(word) for word in SMALL]
SIZE = (96, 128)
PARTS = ["preprocessing", "backbone", "sem_seg_head", "proposal_generator", "roi_heads"]
KEYS = {
    *("config", "size", "device", "images_per_second", "peak_memory_bytes", "params", "flops"),
    *("parts", "batch", "dtype", "mode", "instances", "segments", "weights_bytes"),
    *("momentum_bytes", "median_ms", "spread_ms"),
}


@pytest.fixture
def stock(tmp_path, monkeypatch):
    """Take a small config of Detectron2's own keys for one of its own; return its path."""
    cfg = get_cfg()
    cfg.set_new_allowed(True)
    cfg.merge_from_file(str(TINY["baseline"]))
    cfg.merge_from_list(OVERRIDES)
    # The only key of ours in it.
    cfg.SOLVER.pop("REFERENCE_BATCH")
    path = tmp_path / "stock.yaml"
    path.write_text(cfg.dump())
    monkeypatch.setattr(module, "stock_config", lambda cfg: str(path))
    return str(path)


def measured(name="ocr", overrides=(), **how):
    given = {"device": "cpu", "dtype": "float32", "runs": 1, **how}
    return measure_model(str(TINY[name]), SIZE, overrides=[*OVERRIDES, *overrides], **given)


def test_a_model_is_the_sum_of_its_parts():
    cost, stock = measured(batch=2, instances=3)
    assert stock is None
    assert list(cost.parts) == [*PARTS, "merging"]
    assert cost.flops == sum(part.flops for part in cost.parts.values())
    for name in PARTS[1:]:
        part = cost.parts[name]
        assert part.params > 0
        assert part.flops > 0
        assert 0 < part.peak_memory_bytes <= cost.peak_memory_bytes
        assert part.median_ms > 0
    assert max(part.peak_memory_bytes for part in cost.parts.values()) == cost.peak_memory_bytes
    assert cost.instances == 6
    assert cost.segments >= 1
    assert cost.images_per_second == 2e3 / cost.median_ms
    model = small_model()
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())


def test_flops_are_those_of_a_count_by_hand():
    # The proposal generator: 3x3 to 32 channels, 3 anchors' scores and 12 deltas, on p2 to p6.
    cost, _ = measured()
    cells = sum((96 // stride) * (128 // stride) for stride in (4, 8, 16, 32)) + 2 * 2
    assert cost.parts["proposal_generator"].flops == 2 * cells * 32 * (9 * 32 + 3 + 12)


def test_the_same_weights_and_thresholds_are_measured_on_both_sides(stock):
    ours, theirs = measured("baseline", instances=4, against_stock=True)
    # The same model: what is found is the same, but for what folding norms rounds.
    assert theirs.instances == ours.instances == 4
    assert theirs.params == ours.params
    assert theirs.dtype == ours.dtype == "float32"
    assert theirs.config == stock
    for name in PARTS[1:]:
        assert theirs.parts[name].flops == ours.parts[name].flops


def test_our_side_goes_through_the_inference_path(stock, monkeypatch):
    seen = []

    def prepare(model, *, dtype):
        seen.append((type(model).__name__, dtype))
        return original(model, dtype=dtype)

    original = module.prepare_for_inference
    monkeypatch.setattr(module, "prepare_for_inference", prepare)
    ours, theirs = measured(against_stock=True, dtype="bfloat16")
    assert seen == [("PaddingAwarePanopticFPN", "bfloat16")]
    assert (ours.dtype, theirs.dtype) == ("bfloat16", "float32")


def test_stock_is_detectron2s_model_with_our_weights(stock):
    overrides = ["MODEL.RPN.POST_NMS_TOPK_TEST", "7", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.25"]
    cfg = small_config("ocr", overrides)
    ours = small_model("ocr", overrides)
    model = stock_model(stock, cfg, ours)
    assert type(model) is PanopticFPN
    assert type(model.sem_seg_head).__name__ == "SemSegFPNHead"
    assert model.proposal_generator.post_nms_topk[False] == 7
    assert model.roi_heads.box_predictor.test_score_thresh == 0.25
    given, taken = ours.state_dict(), model.state_dict()
    equal = [key for key in taken if key in given and given[key].shape == taken[key].shape]
    assert all(torch.equal(taken[key], given[key]) for key in equal)
    # OCR's head has all that the head which it extends has.
    assert len(equal) == len(taken)


def test_stock_is_of_the_same_depth_and_task():
    cfg = small_config("ocr", ["MODEL.RESNETS.DEPTH", 101])
    assert stock_config(cfg).endswith("COCO-PanopticSegmentation/panoptic_fpn_R_101_3x.yaml")
    cfg = small_config("mask_rcnn", ["MODEL.RESNETS.DEPTH", 50])
    assert stock_config(cfg).endswith("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    with pytest.raises(
        InputError, match=r"^--against stock: MODEL.RESNETS.DEPTH 18, but Detectron2"
    ):
        stock_config(small_config())


def test_random_weights_do_the_work_of_trained_ones():
    cfg, model = our_model(str(TINY["ocr"]), OVERRIDES, "cpu")
    inputs = draw_inputs(cfg, SIZE, 2, 3)
    settle(model, inputs, 5)
    with torch.no_grad():
        maps = model.backbone(model.preprocess_image(inputs).tensor)
        results = model(inputs)
    assert max(feats.std() for feats in maps.values()) == pytest.approx(1, abs=1e-3)
    for result in results:
        assert len(result["instances"]) == 5
        assert sum(segment["isthing"] for segment in result["panoptic_seg"][1]) >= 1


def test_weights_are_given_as_a_key(tmp_path):
    model = small_model(seed=5)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    given = ["MODEL.WEIGHTS", str(tmp_path / "weights.pth")]
    cfg, loaded = our_model(str(TINY["ocr"]), [*OVERRIDES, *given], "cpu")
    assert given[1] == cfg.MODEL.WEIGHTS
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    # Given weights are measured as they are.
    cost, _ = measured(overrides=given, instances=3)
    with torch.no_grad():
        (result,) = loaded(draw_inputs(cfg, SIZE, 1, 3))
    assert cost.instances == len(result["instances"])


def test_weights_that_a_config_begins_to_train_from_are_not_loaded():
    config = CONFIGS / "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    cfg, model = our_model(str(config), [], "cpu")
    assert cfg.MODEL.WEIGHTS == ""
    assert isinstance(model, GeneralizedRCNN)


@pytest.mark.parametrize(
    ("mask_format", "kind"), [("polygon", PolygonMasks), ("bitmask", BitMasks)]
)
def test_drawn_labels_are_what_training_takes(mask_format, kind):
    cfg = small_config(overrides=["INPUT.MASK_FORMAT", mask_format])
    first, second = draw_inputs(cfg, (60, 90), 2, 4)
    again, _ = draw_inputs(cfg, (60, 90), 2, 4)
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], second["image"])
    assert first["image"].shape == (3, 60, 90)
    assert first["sem_seg"].shape == (60, 90)
    assert first["sem_seg"].max() < cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    instances = first["instances"]
    assert len(instances) == 4
    assert isinstance(instances.gt_masks, kind)
    boxes = instances.gt_boxes.tensor
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([90, 60])).all()
    torch.testing.assert_close(
        instances.gt_masks.get_bounding_boxes().tensor, boxes, atol=1.5, rtol=0
    )


def test_training_is_forward_and_backward():
    cost, _ = measured(mode="training", batch=2, dtype="auto", instances=3)
    assert list(cost.parts) == [*PARTS, "backward"]
    assert cost.dtype == "float32"
    assert (cost.instances, cost.segments) == (6, None)
    forward = sum(cost.parts[name].flops for name in PARTS)
    assert 1.5 * forward < cost.parts["backward"].flops < 2.5 * forward
    assert cost.flops == forward + cost.parts["backward"].flops
    # Gradients of all weights, and the momentum of SGD.
    assert cost.peak_memory_bytes > 4 * cost.params
    assert cost.momentum_bytes == 4 * cost.params <= cost.weights_bytes
    assert f"{4 * cost.params / 2**30:.2f} GiB of SGD's momentum" in format_model(cost)


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        ["MODEL.SEM_SEG_HEAD.OCR.CHECKPOINT_ACTIVATIONS"],
        [
            *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
            *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "ocr"),
            *("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", "0.5"),
            *("MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS", "128", "MODEL.SEM_SEG_HEAD.CONTEXT.NORM"),
            *("BN", "MODEL.SEM_SEG_HEAD.CONTEXT.CHECKPOINT_ACTIVATIONS"),
        ],
    ],
    ids=["OCR", "context"],
)
def test_the_memory_switch_takes_less_memory_and_more_flops(keys):
    kept, _ = measured(overrides=[*keys, "False"], mode="training", batch=2)
    again, _ = measured(overrides=[*keys, "True"], mode="training", batch=2)
    # So small a model's peak is made of its gradients; it is less that is there before them.
    last = "roi_heads"
    saved = kept.parts[last].peak_memory_bytes - again.parts[last].peak_memory_bytes
    # At least the results of the stage's norms and ReLUs, 128 channels at a stride of 4.
    assert saved > 4 * 2 * 4 * 128 * 24 * 32
    assert again.flops > kept.flops
    assert again.params == kept.params


def test_a_model_without_semantic_head_is_measured():
    cost, _ = measured("mask_rcnn")
    assert list(cost.parts) == [
        *("preprocessing", "backbone", "proposal_generator", "roi_heads", "merging")
    ]
    assert cost.segments is None


def test_what_is_reported_is_what_was_measured(stock):
    how = {"device": "cpu", "dtype": "float32", "mode": "forward", "batch": 1, "instances": 2}
    text, numbers = report_model(
        str(TINY["ocr"]), "96,128", against="stock", opts=OVERRIDES, runs=2, **how
    )
    numbers = json.loads(json.dumps(numbers))
    assert set(numbers) == {*KEYS, "stock", "ratio_to_stock"}
    assert set(numbers["stock"]) == KEYS
    assert numbers["size"] == list(SIZE)
    ratio = numbers["median_ms"] / numbers["stock"]["median_ms"]
    assert numbers["ratio_to_stock"] == ratio
    assert f"Time of ours over that of stock: {ratio:.3f} (below 1 is faster)" in text
    assert f"ours: {TINY['ocr']}, 2 instances and {numbers['segments']} segments\n" in text
    for side in (numbers, numbers["stock"]):
        assert f"| {side['median_ms']:.1f} ms" in text
        for name, part in side["parts"].items():
            assert f"| {name} " in text
            assert f"| {part['median_ms']:.1f} ms" in text
