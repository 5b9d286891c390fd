"""Predictions on the device: the CPU's, in any memory format, in bfloat16, and with less memory."""

import json

import cv2
import numpy as np
import pytest
import torch

from ocr_panoptic.benchmark.measure import measure_footprint
from ocr_panoptic.engine.inference import prepare_for_inference
from ocr_panoptic.modeling.semantic_labels import semantic_labels, semantic_logits

from ..conftest import load_tool
from ..engine.test_inference import FOUND, draw_inputs
from ..models import SMALL, TINY, small_model
from .device import DEVICE, assert_close, needs_cuda, needs_device

pytestmark = needs_device

# Of the padded, the resized, and the one that is neither.
INPUTS = draw_inputs((61, 97), (50, 33, 100, 71), (96, 96))


@pytest.fixture(scope="module", params=["ocr", "baseline"])
def models(request):
    """A model on the CPU, and the same on the device."""
    models = [
        small_model(request.param, [*FOUND, "MODEL.DEVICE", device]) for device in ("cpu", DEVICE)
    ]
    # Drawn on the CPU, whatever device they are moved to.
    models[1].load_state_dict(models[0].state_dict())
    return [model.eval() for model in models]


def labels_of(result):
    if "sem_seg_labels" in result:
        return result["sem_seg_labels"].cpu()
    return result["sem_seg"].argmax(dim=0).cpu()


def assert_same(found, expected, least_same_labels):
    """Compare the labels of two predictions, and see that each panoptic map is whole."""
    for one, other in zip(found, expected, strict=True):
        labels, others = labels_of(one), labels_of(other)
        assert labels.shape == others.shape
        assert (labels == others).float().mean() >= least_same_labels
        panoptic_map, segments = one["panoptic_seg"]
        assert set(panoptic_map.unique().tolist()) - {0} == {s["id"] for s in segments}


def assert_same_logits_and_instances(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one["sem_seg"].device.type == DEVICE
        assert_close(one["sem_seg"], other["sem_seg"], 1e-4)
        # Where two boxes overlap by just the threshold, rounding decides on one of them.
        scores, others = one["instances"].scores, other["instances"].scores
        assert abs(len(scores) - len(others)) <= 2
        assert_close(scores[:5], others[:5], 1e-2)
    assert_same(found, expected, 0.999)


@torch.no_grad()
def test_float32_is_the_cpus(models):
    on_cpu, on_device = models
    assert_same_logits_and_instances(on_device(INPUTS), on_cpu(INPUTS))


@torch.no_grad()
def test_channels_last_predicts_the_same(models):
    _, model = models
    expected = model(INPUTS)
    # The model itself, and back: other tests use it.
    model.to(memory_format=torch.channels_last)
    try:
        found = model(INPUTS)
    finally:
        model.to(memory_format=torch.contiguous_format)
    assert_same_logits_and_instances(found, expected)


def test_prepared_in_float32_is_the_model(models):
    _, model = models
    with torch.no_grad():
        expected = model(INPUTS)
    found = prepare_for_inference(model, dtype="float32")(INPUTS)
    for one, other in zip(found, expected, strict=True):
        assert one["sem_seg_labels"].device.type == DEVICE
        assert_close(one["instances"].scores, other["instances"].scores, 1e-5)
        masks, others = one["instances"].pred_masks, other["instances"].pred_masks
        assert (masks == others).float().mean() > 0.999
    assert_same(found, expected, 0.9999)


def test_prepared_in_bfloat16_agrees(models):
    _, model = models
    prepared = prepare_for_inference(model, dtype="bfloat16")
    first = next(layer for layer in prepared.modules() if isinstance(layer, torch.nn.Conv2d))
    assert first.weight.dtype == torch.bfloat16
    assert first.weight.is_contiguous(memory_format=torch.channels_last)
    exact = prepare_for_inference(model, dtype="float32")(INPUTS)
    found = prepared(INPUTS)
    for result in found:
        for tensor in (result["instances"].scores, result["instances"].pred_boxes.tensor):
            assert tensor.dtype == torch.float32
            assert tensor.isfinite().all()
    # Random weights leave the two highest logits of many pixels close to each other.
    assert_same(found, exact, 0.97)


def peak(call):
    call()
    return measure_footprint(call, DEVICE).peak_bytes


@pytest.mark.parametrize("output_size", [(480, 640), (427, 569)], ids=str)
@torch.no_grad()
def test_labels_need_no_logits_of_full_size(output_size):
    logits = torch.randn(54, 120, 160, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    arguments = logits, 4, (480, 640), output_size
    expected = semantic_logits(*arguments).argmax(dim=0)
    assert (semantic_labels(*arguments) == expected).float().mean() > 0.9999
    # 54 maps of the padded image, in float32.
    full = 54 * 480 * 640 * 4
    assert peak(lambda: semantic_labels(*arguments)) < 0.75 * full
    assert peak(lambda: semantic_logits(*arguments)) >= full


@torch.no_grad()
def test_a_prepared_model_takes_less_memory():
    overrides = ["MODEL.DEVICE", DEVICE, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54]
    model = small_model("ocr", overrides).eval()
    prepared = prepare_for_inference(model, dtype="float32")
    inputs = draw_inputs((320, 448))
    saved = peak(lambda: model(inputs)) - peak(lambda: prepared(inputs))
    assert saved > 0.5 * 54 * 320 * 448 * 4


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(64, 96), (50, 33), (96, 80)]):
        patches = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = patches.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def predict(images, output, *options, overrides=()):
    words = {**dict(zip(SMALL[::2], SMALL[1::2], strict=True)), **dict(overrides)}
    sets = ["DATASETS.TEST", "('test_shapes_val_separated',)"]
    opts = [str(word) for pair in words.items() for word in pair]
    return load_tool("tools/predict.py").main(
        [
            *("--config-file", str(TINY["ocr"]), "--input", str(images), "--output", str(output)),
            *("--save-semantic", *options, "--opts", *sets, *opts),
        ]
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_predict_writes_what_the_cpu_would(datasets_root, images, tmp_path, dtype):
    for device in ("cpu", DEVICE):
        folder = tmp_path / f"on_{device}"
        how = {"MODEL.DEVICE": device}
        assert predict(images, folder, "--dtype", dtype, overrides=how) == 0
    folders = tmp_path / "on_cpu", tmp_path / f"on_{DEVICE}"
    names = sorted(path.name for path in (folders[0] / "semantic").iterdir())
    assert len(names) == 3
    for name in names:
        labels = [
            cv2.imread(str(folder / "semantic" / name), cv2.IMREAD_UNCHANGED) for folder in folders
        ]
        assert labels[0].shape == labels[1].shape
        assert (labels[0] == labels[1]).mean() >= (0.999 if dtype == "float32" else 0.95)
    for folder in folders:
        content = json.loads((folder / "panoptic.json").read_text())
        assert len(content["annotations"]) == 3
        assert all((folder / "panoptic" / name).is_file() for name in names)
        json.loads((folder / "instances.json").read_text())


@needs_cuda
def test_too_large_an_image_is_one_line(datasets_root, images, tmp_path, capsys):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 2**30
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        how = {"MODEL.DEVICE": DEVICE, "INPUT.MIN_SIZE_TEST": 4000, "INPUT.MAX_SIZE_TEST": 6000}
        status = predict(images, tmp_path, "--dtype", "float32", overrides=how)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert status == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "more memory than" in line]
    assert len(lines) == 3
    assert lines[0].endswith("expected a smaller INPUT.MAX_SIZE_TEST or MODEL.DEVICE cpu")
