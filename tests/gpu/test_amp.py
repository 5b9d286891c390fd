"""Mixed precision: steps whose losses are those of float32, and what is kept in float32."""

import json
import logging

import pytest
import torch
from detectron2.utils.events import EventStorage

from ocr_panoptic.engine.precision import AMP_DTYPES
from ocr_panoptic.layers.region_context import divided_by_mass, soft_object_regions
from ocr_panoptic.modeling.losses import semantic_cross_entropy

from ..conftest import load_tool
from ..engine.runs import UNTESTED, arguments, differ, read
from ..modeling.test_end_to_end import BATCHES
from ..models import small_model
from .device import DEVICE, assert_close, needs_cuda, needs_device

pytestmark = needs_device

DTYPES = pytest.mark.parametrize("name", AMP_DTYPES)
# Part of a loss in float32. What is rounded grows through a ResNet with random weights.
TOLERANCE = {"float16": 0.02, "bfloat16": 0.1}


def losses_of(model, dtype=None):
    """Return the losses of a batch with padding, in mixed precision where a dtype is given."""
    torch.manual_seed(0)
    with (
        EventStorage(),
        torch.autocast(DEVICE, dtype=dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        return model(BATCHES["odd sizes"])


@DTYPES
def test_a_step_of_panoptic_fpn_with_ocr(name):
    overrides = ["MODEL.DEVICE", DEVICE, "MODEL.SEM_SEG_HEAD.OCR.DROPOUT", 0.0]
    model = small_model("ocr", overrides).train()
    # A copy of the model would do; statistics of BatchNorm are not used in training.
    exact = losses_of(model)
    found = losses_of(model, getattr(torch, name))
    assert found.keys() == exact.keys()
    for key, loss in found.items():
        assert loss.isfinite(), key
    for key in ("loss_sem_seg", "loss_sem_seg_region"):
        assert found[key].dtype == torch.float32
        assert_close(found[key], exact[key], TOLERANCE[name])
    scaler = torch.amp.GradScaler(DEVICE, init_scale=256.0, enabled=name == "float16")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = {key: value.clone() for key, value in model.named_parameters()}
    scaler.scale(sum(found.values())).backward()
    scaler.unscale_(optimizer)
    for key, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == (256.0 if name == "float16" else 1.0)
    changed = [
        key for key, value in model.named_parameters() if not torch.equal(value, before[key])
    ]
    assert "sem_seg_head.ocr.fuse.0.weight" in changed


@DTYPES
def test_losses_are_computed_in_float32(name):
    dtype = getattr(torch, name)
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 5, 7, 9, generator=generator)).to(DEVICE, dtype)
    targets = torch.randint(5, (2, 28, 36), generator=generator).to(DEVICE)
    how = {"stride": 4, "ignore_value": 255}
    with torch.autocast(DEVICE, dtype=dtype):
        found = semantic_cross_entropy(logits, targets, **how)
    assert found.dtype == torch.float32
    assert_close(found, semantic_cross_entropy(logits.double().cpu(), targets.cpu(), **how), 1e-5)


@pytest.mark.skipif(DEVICE == "cpu", reason="autocast of the CPU leaves a softmax in its input's")
@DTYPES
def test_weights_of_regions_are_computed_in_float32(name):
    dtype = getattr(torch, name)
    # As many positions as an image of 800x1333 has at stride 4: more than float16 can count.
    logits = torch.randn(1, 2, 200, 336, generator=torch.Generator().manual_seed(0))
    logits = logits.to(DEVICE, dtype)
    mask = torch.zeros(1, 200, 336, dtype=torch.bool, device=DEVICE)
    mask[..., 300:] = True
    with torch.autocast(DEVICE, dtype=dtype):
        found = soft_object_regions(logits, mask)
        shares = divided_by_mass(logits.softmax(dim=1), mask)
    assert found.dtype == shares.dtype == torch.float32
    exact = logits.double()
    assert_close(found, soft_object_regions(exact, mask), 1e-5)
    assert_close(shares, divided_by_mass(exact.softmax(dim=1), mask), 1e-5)


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/train_net.py").main


def settings(name, **more):
    return {
        **{"MODEL.DEVICE": DEVICE, "SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": name},
        **{"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": (3,), **UNTESTED, **more},
    }


@needs_cuda
@DTYPES
def test_a_training_says_its_dtype(main, datasets_root, tmp_path, name):
    assert main(arguments(tmp_path, overrides=settings(name))) == 0
    log = (tmp_path / "log.txt").read_text()
    scaled = ", gradients scaled" if name == "float16" else ""
    assert f"SOLVER.AMP: training in {name}{scaled}; softmax, GroupNorm" in log
    state = read(tmp_path)
    assert all(value.dtype != torch.float16 for value in state["model"].values())
    scaler = state["trainer"]["_trainer"]["grad_scaler"]
    assert (scaler == {}) == (name == "bfloat16")
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert rows
    assert all(row["total_loss"] < float("inf") for row in rows)


@needs_cuda
def test_gradients_that_overflow_are_no_broken_run(main, datasets_root, tmp_path, monkeypatch):
    # Scaled by 2^60, gradients are infinite in float16: each step is skipped, each halves the
    # scale. The losses themselves are finite.
    made = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda *args, **kwargs: made(*args, init_scale=2.0**60, **kwargs)
    )
    # A checkpoint after the first iteration and one after the last.
    overrides = settings("float16", **{"SOLVER.CHECKPOINT_PERIOD": 1, "SOLVER.MOMENTUM": 0.0})
    assert main(arguments(tmp_path, overrides=overrides)) == 0
    assert not (tmp_path / "nonfinite.json").exists()
    first, last = read(tmp_path, "model_0000000"), read(tmp_path)
    assert last["trainer"]["_trainer"]["grad_scaler"]["scale"] == 2.0**56
    trained = [key for key in first["model"] if key.endswith("ocr.fuse.0.weight")]
    assert len(trained) == 1
    assert torch.equal(first["model"][trained[0]], last["model"][trained[0]])
    # Statistics of BatchNorm have gone on.
    assert differ(first, last)


@needs_cuda
def test_other_precision_than_the_checkpoints_is_one_line(main, datasets_root, tmp_path, caplog):
    assert main(arguments(tmp_path, overrides=settings("bfloat16"))) == 0
    more = {"SOLVER.MAX_ITER": 5}
    assert main(arguments(tmp_path, "--resume", overrides=settings("float16", **more))) == 2
    with caplog.at_level(logging.INFO):
        assert main(arguments(tmp_path, "--resume", overrides=settings("bfloat16", **more))) == 0
    assert read(tmp_path)["iteration"] == 4
