"""The inference path: what it promises to keep, in float32 and in bfloat16."""

import copy

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from ocr_panoptic.engine import inference as module
from ocr_panoptic.engine.inference import (
    DTYPES,
    load_for_inference,
    native_dtype,
    prepare_for_inference,
    resolve_dtype,
)
from ocr_panoptic.errors import InputError
from ocr_panoptic.modeling import CONTEXT_REGISTRY

from ..modeling.test_folding import randomise
from ..models import small_config, small_model

# A random model finds stuff of some pixels and instances of no great score.
FOUND = [
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 1),
    *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0),
]


def draw_inputs(*sizes):
    """Images of (height, width), with the size of the result where four numbers are given."""
    rng = np.random.default_rng(0)
    inputs = []
    for height, width, *output in sizes:
        # Large patches: noise of single pixels is nothing that a network sees.
        patches = rng.integers(0, 256, (3, -(-height // 8), -(-width // 8)), dtype=np.uint8)
        image = patches.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
        size = dict(zip(("height", "width"), output, strict=True)) if output else {}
        inputs.append({"image": torch.from_numpy(image.copy()), **size})
    return inputs


BATCHES = {
    "as large as the image": [(64, 96)],
    "resized": [(64, 96, 50, 33)],
    "padded": [(61, 97), (50, 33, 100, 71)],
    "one pixel high": [(1, 64)],
}


@pytest.fixture(scope="module", params=["ocr", "baseline"])
def model(request):
    return small_model(request.param, FOUND).eval()


@pytest.mark.parametrize("name", BATCHES)
@torch.no_grad()
def test_float32_is_the_model(model, name):
    inputs = draw_inputs(*BATCHES[name])
    before = copy.deepcopy(model.state_dict())
    with_logits = prepare_for_inference(model, dtype="float32", keep_logits=True)
    with_labels = prepare_for_inference(model, dtype="float32")
    results = zip(model(inputs), with_logits(inputs), with_labels(inputs), strict=True)
    for expected, logits, labels in results:
        assert logits.keys() == expected.keys()
        assert logits["sem_seg"].shape == expected["sem_seg"].shape
        assert torch.equal(logits["sem_seg"], expected["sem_seg"])
        assert labels.keys() - {"sem_seg_labels"} == expected.keys() - {"sem_seg"}
        # Equal but for pixels whose two highest logits are equal but for rounding.
        chosen = expected["sem_seg"].gather(0, labels["sem_seg_labels"].unsqueeze(0))[0]
        scale = expected["sem_seg"].abs().max()
        assert (expected["sem_seg"].amax(dim=0) - chosen).max() < 1e-6 * scale
        assert len(expected["instances"]) > 0
        for result in (logits, labels):
            assert torch.equal(result["instances"].scores, expected["instances"].scores)
            assert torch.equal(result["instances"].pred_masks, expected["instances"].pred_masks)
            panoptic_map, segments = result["panoptic_seg"]
            assert panoptic_map.shape == expected["panoptic_seg"][0].shape
            assert set(panoptic_map.unique().tolist()) - {0} == {s["id"] for s in segments}
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", BATCHES)
def test_bfloat16_gives_the_same_kinds_of_results(model, name):
    inputs = draw_inputs(*BATCHES[name])
    prepared = prepare_for_inference(model, dtype="bfloat16")
    assert prepared.dtype == "bfloat16"
    exact = prepare_for_inference(model, dtype="float32")(inputs)
    for rounded, expected in zip(prepared(inputs), exact, strict=True):
        assert rounded.keys() == expected.keys()
        assert rounded["sem_seg_labels"].shape == expected["sem_seg_labels"].shape
        instances = rounded["instances"]
        for tensor in (instances.scores, instances.pred_boxes.tensor):
            assert tensor.dtype == torch.float32
            assert tensor.isfinite().all()
        assert not instances.scores.requires_grad
        panoptic_map, segments = rounded["panoptic_seg"]
        assert set(panoptic_map.unique().tolist()) - {0} == {s["id"] for s in segments}


def test_bfloat16_logits_are_close():
    model = small_model("ocr").eval()
    inputs = draw_inputs((64, 96))
    expected = prepare_for_inference(model, dtype="float32", keep_logits=True)(inputs)[0]["sem_seg"]
    rounded = prepare_for_inference(model, dtype="bfloat16", keep_logits=True)(inputs)[0]["sem_seg"]
    assert rounded.dtype == torch.float32
    difference = (rounded - expected).abs().max() / expected.abs().max()
    # Rounded indeed, and no more than that.
    assert 1e-5 < difference < 0.1


def test_last_layers_stay_in_float32_and_nothing_else_does():
    prepared = prepare_for_inference(small_model("ocr"), dtype="bfloat16")
    dtypes = {
        name: layer.weight.dtype
        for name, layer in prepared.named_modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    }
    kept = {name.removesuffix(".layer") for name, t in dtypes.items() if t == torch.float32}
    assert {name.removeprefix("model.") for name in kept} == {
        "proposal_generator.rpn_head.objectness_logits",
        "proposal_generator.rpn_head.anchor_deltas",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.predictor",
        "sem_seg_head.head.predictor",
        "sem_seg_head.head.ocr_predictor",
    }
    assert len(dtypes) > 40


def test_masks_under_other_names_of_layers_work(monkeypatch):
    monkeypatch.setattr(module, "_OUTPUT_LAYERS", ())
    prepared = prepare_for_inference(small_model("ocr", FOUND), dtype="bfloat16")
    (result,) = prepared(draw_inputs((64, 96)))
    assert len(result["instances"]) > 0


@pytest.mark.parametrize("scheme", sorted(name for name, _ in CONTEXT_REGISTRY))
@torch.no_grad()
def test_every_context_scheme_goes_the_same_way(scheme):
    model = small_model(
        "baseline",
        [
            *("MODEL.META_ARCHITECTURE", "PaddingAwarePanopticFPN"),
            *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
            *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", scheme),
            *("MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS", 64, "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN"),
        ],
    ).eval()
    inputs = draw_inputs((61, 97), (50, 33, 100, 71))
    for image in inputs:
        # Some schemes look at the ground truth.
        image["sem_seg"] = torch.zeros(image["image"].shape[1:], dtype=torch.int64)
    expected = model(inputs)[0]["sem_seg"]
    for dtype, bound in (("float32", 0), ("bfloat16", 0.1)):
        prepared = prepare_for_inference(model, dtype=dtype, keep_logits=True)
        difference = (prepared(inputs)[0]["sem_seg"] - expected).abs().max()
        assert difference <= bound * expected.abs().max()


def test_a_scheme_that_looks_at_the_ground_truth_predicts_no_images():
    cfg = small_config(
        "baseline",
        [
            *("MODEL.META_ARCHITECTURE", "PaddingAwarePanopticFPN"),
            *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
            *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "gt_ocr"),
            *("MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS", 64, "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN"),
        ],
    )
    with pytest.raises(InputError, match=r"CONTEXT\.NAME: 'gt_ocr' looks at the true labels, wh"):
        load_for_inference(cfg)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mask_rcnn", "isa", "nl"])
@torch.no_grad()
def test_instance_segmentation_goes_the_same_way(name, dtype):
    model = small_model(name).eval()
    randomise(model.backbone.bottom_up.stem)
    inputs = draw_inputs((61, 97, 122, 194), (64, 64))
    results = prepare_for_inference(model, dtype=dtype)(inputs)
    for result, expected in zip(results, model(inputs), strict=True):
        assert result.keys() == expected.keys()
        assert result["instances"].image_size == expected["instances"].image_size
        assert result["instances"].scores.dtype == torch.float32
        if dtype == "float32":
            scores = expected["instances"].scores
            assert torch.equal(result["instances"].scores, scores)


@torch.no_grad()
def test_an_architecture_of_ones_own_is_called_as_it_is():
    model = small_model("ocr", FOUND).eval()

    class Own(type(model)):
        def inference(self, batched_inputs, do_postprocess=True):
            return [{"own": len(batched_inputs)}]

    model.__class__ = Own
    assert prepare_for_inference(model, dtype="bfloat16")(draw_inputs((64, 96))) == [{"own": 1}]
    segmentor = small_model("baseline", ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]).eval()
    assert "SemanticSegmentor" in META_ARCH_REGISTRY
    inputs = draw_inputs((64, 96))
    (result,) = prepare_for_inference(segmentor, dtype="float32")(inputs)
    expected = segmentor(inputs)[0]["sem_seg"]
    assert torch.equal(result["sem_seg"], expected)


def test_it_stays_in_evaluation_mode():
    model = small_model("ocr").train()
    prepared = prepare_for_inference(model, dtype="float32")
    assert model.training
    assert not any(part.training for part in prepared.modules())
    assert prepared.eval() is prepared
    with pytest.raises(RuntimeError, match="prepared for inference cannot be trained"):
        prepared.train()


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 vme\n", "bfloat16"),
        ("flags : fpu amx_bf16\n", "bfloat16"),
        ("flags : fpu avx512f avx512_bf16_of_others\n", "float32"),
        ("Features : fp asimd bf16\n", "float32"),
        ("", "float32"),
        (None, "float32"),
    ],
)
def test_auto_asks_the_processor(tmp_path, monkeypatch, cpuinfo, expected):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(module, "_CPUINFO", path)
    assert native_dtype(torch.device("cpu")) == expected
    assert resolve_dtype("auto", torch.device("cpu")) == expected
    assert resolve_dtype("float32", torch.device("cpu")) == "float32"
    assert resolve_dtype("bfloat16", torch.device("cpu")) == "bfloat16"


@pytest.mark.parametrize(("capability", "expected"), [((8, 0), "bfloat16"), ((7, 5), "float32")])
def test_auto_asks_the_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_dtype(torch.device("cuda")) == expected


def test_another_dtype_is_refused():
    assert DTYPES == ("auto", "float32", "bfloat16")
    message = "dtype 'float16', expected one of auto, float32, bfloat16"
    with pytest.raises(InputError, match=message):
        prepare_for_inference(small_model("ocr"), dtype="float16")
