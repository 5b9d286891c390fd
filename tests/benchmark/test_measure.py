"""What is counted of a call: products once each, and the memory that it really takes."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ocr_panoptic.benchmark.measure import (
    check_counts,
    count_flops,
    failures_in_one_line,
    interleaved_times,
    measure_footprint,
    read_size,
    section,
)
from ocr_panoptic.errors import InputError

MIB = 2**20


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype)


def attend(mask=None, dtype=torch.float32, value_width=8):
    query, key = random(2, 3, 5, 8, dtype=dtype), random(2, 3, 7, 8, dtype=dtype)
    value = random(2, 3, 7, value_width, dtype=dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


@pytest.mark.parametrize(
    ("call", "multiply_adds"),
    [
        (lambda: random(3, 4) @ random(4, 5), 3 * 4 * 5),
        (lambda: random(3, 4) @ random(4), 3 * 4),
        (lambda: torch.addmv(random(3), random(3, 4), random(4)), 3 * 4),
        (lambda: random(4) @ random(4), 4),
        (lambda: random(2, 3, 4) @ random(4, 5), 2 * 3 * 4 * 5),
        (lambda: torch.bmm(random(2, 3, 4), random(2, 4, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.baddbmm(random(2, 3, 5), random(2, 3, 4), random(2, 4, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.einsum("nchw,nkw->nckh", random(2, 3, 4, 5), random(2, 6, 5)), 720),
        (lambda: torch.tensordot(random(2, 3, 4), random(3, 4, 5), 2), 2 * 3 * 4 * 5),
        (lambda: F.linear(random(2, 3, 4), random(5, 4), random(5)), 2 * 3 * 4 * 5),
        (lambda: F.conv2d(random(2, 4, 6, 8), random(10, 4, 3, 3), padding=1), 2 * 48 * 360),
        (lambda: F.conv2d(random(2, 4, 6, 8), random(10, 2, 1, 1), groups=2), 2 * 48 * 20),
        (lambda: F.conv2d(random(1, 4, 9, 9), random(4, 4, 3, 3), dilation=2), 25 * 144),
        (lambda: F.conv_transpose2d(random(1, 4, 3, 3), random(4, 5, 2, 2), stride=2), 9 * 80),
        (attend, 2 * 3 * 5 * 7 * (8 + 8)),
        (lambda: attend(torch.ones(1, 1, 1, 7, dtype=torch.bool)), 2 * 3 * 5 * 7 * (8 + 8)),
        (lambda: attend(dtype=torch.bfloat16), 2 * 3 * 5 * 7 * (8 + 8)),
        # No fused kernel has values of another width.
        (lambda: attend(value_width=6), 2 * 3 * 5 * 7 * (8 + 6)),
        # Not counted: pointwise work.
        (lambda: F.batch_norm(random(1, 2, 3, 3), torch.zeros(2), torch.ones(2)), 0),
        (lambda: F.interpolate(random(1, 2, 3, 3), scale_factor=2, mode="bilinear"), 0),
        (lambda: random(3, 4).softmax(dim=1) * 2, 0),
    ],
)
@pytest.mark.parametrize("no_gradient", [torch.no_grad, torch.inference_mode])
def test_every_product_counts_once(call, multiply_adds, no_gradient):
    with no_gradient():
        assert count_flops(call) == 2 * multiply_adds


def test_multi_head_attention_is_counted_in_evaluation_mode():
    # Its fast path is one kernel, for which torch has no formula.
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    tokens = random(1, 5, 8)
    with torch.no_grad():
        found = count_flops(lambda: layer(tokens, tokens, tokens, need_weights=False))
    assert found == 2 * (4 * 5 * 8 * 8 + 2 * 5 * 5 * 8)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolutions_backward_counts_twice_its_forward(groups):
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=groups)
    feats = random(2, 4, 5, 7).requires_grad_()
    forward = 2 * 2 * 35 * 6 * (4 // groups) * 9
    assert count_flops(lambda: conv(feats)) == forward
    assert count_flops(lambda: conv(feats).sum().backward()) == 3 * forward
    # No gradient of the input.
    assert count_flops(lambda: conv(feats.detach()).sum().backward()) == 2 * forward


def test_attentions_backward_is_counted():
    query, key, value = (random(1, 1, size, 8).requires_grad_() for size in (5, 7, 7))
    # The backward pass computes the scores again, then four products.
    found = count_flops(lambda: F.scaled_dot_product_attention(query, key, value).sum().backward())
    assert found == 2 * 5 * 7 * 8 * (2 + 5)


def test_peak_memory_is_what_a_call_holds_at_once():
    def call():
        with section("first"):
            one = torch.empty(MIB, dtype=torch.uint8)
        with section("second"):
            two = torch.empty(3 * MIB, dtype=torch.uint8)
            del two
        with section("second"):
            three = torch.empty(2 * MIB, dtype=torch.uint8)
        return one, three

    found = measure_footprint(call, "cpu")
    assert found.peak_bytes == 4 * MIB
    assert found.sections == {"first": MIB, "second": 4 * MIB}


def test_peak_memory_of_training_has_activations_and_gradients():
    # Each layer's result takes 1 MiB, each weight and its gradient 256 KiB.
    layers = nn.Sequential(
        *(part for _ in range(4) for part in (nn.Linear(256, 256, bias=False), nn.ReLU()))
    )
    feats = torch.randn(1024, 256)

    def call():
        layers(feats).sum().backward()
        layers.zero_grad(set_to_none=True)

    call()
    # The results of all ReLUs, that of the last linear layer, or a gradient.
    assert 5 * MIB <= measure_footprint(call, "cpu").peak_bytes <= 6 * MIB
    with torch.no_grad():
        assert measure_footprint(lambda: layers(feats), "cpu").peak_bytes == 2 * MIB


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = interleaved_times(calls, "cpu", 3)
    assert order == list("ababab")
    assert all(len(found) == 3 and min(found) >= 0 for found in times.values())


def test_times_are_milliseconds(monkeypatch):
    clock = iter([10.0, 10.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert interleaved_times({"a": lambda: None}, {"a": "cpu"}, 1) == {"a": [250.0]}


def test_sizes_are_read():
    assert read_size("--size", "512,128,64", "C,H,W such as 1,2,3") == (512, 128, 64)
    assert read_size("--size", "480,640", "H,W such as 1,2") == (480, 640)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "1,x", "1.5,2", "1,,2"])
def test_other_sizes_are_refused(text):
    with pytest.raises(InputError, match=f"^--size {text}: expected H,W such as 1,2$"):
        read_size("--size", text, "H,W such as 1,2")


@pytest.mark.parametrize("text", ["0,2", "-3,2"])
def test_sizes_below_one_are_refused(text):
    with pytest.raises(InputError, match=f"^--size {text}: expected numbers of 1 or more$"):
        read_size("--size", text, "H,W such as 1,2")


def test_counts_below_one_are_refused():
    check_counts(runs=1, num_regions=None)
    with pytest.raises(InputError, match=r"^--num-regions 0: expected 1 or more$"):
        check_counts(runs=1, num_regions=0)


def test_what_a_device_cannot_do_is_one_line():
    def failing(error):
        with failures_in_one_line("--size 9,9,9, sa", "cpu"):
            raise error

    message = "^--size 9,9,9, sa: cpu has not enough memory, expected a smaller size$"
    with pytest.raises(InputError, match=message):
        failing(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(InputError, match=message):
        failing(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(InputError, match="cannot compute it in float16 on this cpu, expected --dt"):
        failing(RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'"))
    with pytest.raises(InputError, match="BatchNorm has one value in training, expected a larger"):
        failing(ValueError("Expected more than 1 value per channel when training, got [1, 9, 1]"))
    # A bug is not a mistake of the user's.
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        failing(RuntimeError("shapes do not fit"))
