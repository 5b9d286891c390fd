"""What a training keeps on the device, and what it says where that is too small."""

import gc

import pytest
import torch
from detectron2.utils.events import EventStorage

from ocr_panoptic.benchmark.measure import measure_footprint

from ..conftest import load_tool
from ..engine.runs import UNTESTED, arguments
from ..modeling.test_end_to_end import make_input
from ..models import small_model
from .device import DEVICE, assert_close, needs_cuda, needs_device

pytestmark = needs_device

# On CUDA so large that activations outweigh the workspaces of convolutions.
SCALE = 3 if DEVICE == "cuda" else 1
BATCH = [
    make_input(192 * SCALE, 256 * SCALE, boxes=[(5, 5, 90, 90)]),
    make_input(160 * SCALE, 256 * SCALE),
]
HEADS = {
    "ocr": ("MODEL.SEM_SEG_HEAD.OCR.CHECKPOINT_ACTIVATIONS",),
    "baseline": (
        "MODEL.SEM_SEG_HEAD.CONTEXT.CHECKPOINT_ACTIVATIONS",
        *("MODEL.META_ARCHITECTURE", "PaddingAwarePanopticFPN"),
        *("MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead"),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.NAME", "ocr", "MODEL.SEM_SEG_HEAD.CONTEXT.NORM", "BN"),
        *("MODEL.SEM_SEG_HEAD.CONTEXT.CHANNELS", 128),
    ),
}


def train_once(name, checkpointed, dtype=None):
    """Return losses, gradients of the semantic head, and the peak of a second step."""
    key, *overrides = HEADS[name]
    overrides = ["MODEL.DEVICE", DEVICE, key, checkpointed, *overrides]
    model = small_model(name, overrides).train()
    losses = {}

    def step():
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        enabled = dtype is not None
        with (
            EventStorage(),
            torch.autocast(DEVICE, dtype=dtype or torch.bfloat16, enabled=enabled),
        ):
            found = model(BATCH)
        sum(found.values()).backward()
        losses.update({key: loss.detach() for key, loss in found.items()})

    step()
    # What is released while it is measured would count.
    gc.collect()
    peak = measure_footprint(step, DEVICE).peak_bytes
    grads = {key: value.grad for key, value in model.sem_seg_head.named_parameters()}
    return losses, grads, peak


@pytest.mark.parametrize("name", HEADS)
def test_checkpointed_activations_take_less_and_give_the_same(name):
    losses, grads, peak = train_once(name, checkpointed=False)
    again, grads_again, lower = train_once(name, checkpointed=True)
    assert lower < 0.95 * peak
    for key in ("loss_sem_seg", "loss_sem_seg_region"):
        assert_close(again[key], losses[key], 1e-5)
    # The dropout of the first pass is that of the second.
    for key, grad in grads.items():
        assert_close(grads_again[key], grad, 1e-3)


def test_checkpointed_activations_know_of_mixed_precision():
    losses, grads, _ = train_once("ocr", checkpointed=False, dtype=torch.bfloat16)
    again, grads_again, _ = train_once("ocr", checkpointed=True, dtype=torch.bfloat16)
    assert_close(again["loss_sem_seg"], losses["loss_sem_seg"], 1e-5)
    for key, grad in grads.items():
        assert_close(grads_again[key], grad, 5e-2)


@needs_cuda
def test_a_batch_that_is_too_large_is_one_line(datasets_root, tmp_path, capsys):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 2**30
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        # 8 images of 96x96, enlarged.
        how = {"MODEL.DEVICE": DEVICE, "SOLVER.IMS_PER_BATCH": 8, **UNTESTED}
        how |= {"INPUT.MIN_SIZE_TRAIN": (2000,), "INPUT.MAX_SIZE_TRAIN": 2000}
        status = load_tool("tools/train_net.py").main(arguments(tmp_path, overrides=how))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert status == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: SOLVER.IMS_PER_BATCH: 8, 8 a process, need more memory than")
