"""A model followed from part to part."""

import contextlib
import time

import pytest
import torch
from torch import nn

from ocr_panoptic.benchmark import parts as module
from ocr_panoptic.benchmark.parts import Parts, flops_of_parts, timed_parts


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(4, 8, bias=False)
        self.unused = nn.Linear(1, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, feats):
        feats = self.backbone(feats @ feats.new_ones(4, 4))
        feats = self.head(feats) + self.head(-feats)
        return feats.t() @ feats


@pytest.fixture
def call():
    torch.manual_seed(0)
    model = Model()
    feats = torch.randn(3, 4)
    parts = Parts(model, "before", "after")
    return model, parts, lambda: model(feats)


def test_parts_run_in_turn(call):
    model, parts, forward = call
    expected = forward()
    assert torch.equal(parts.learn(forward), expected)
    assert parts.names == ["before", "backbone", "head", "after"]
    events = []

    @contextlib.contextmanager
    def around(name):
        events.append(f"{name} begins")
        yield
        events.append(f"{name} ends")

    assert torch.equal(parts.run(forward, around), expected)
    order = ["before", "backbone", "head", "head", "after"]
    assert events == [f"{name} {what}" for name in order for what in ("begins", "ends")]
    # The model is as it was.
    assert all("forward" not in vars(child) for child in model.children())


def test_a_part_keeps_a_forward_of_its_own(call):
    model, parts, forward = call
    own = model.head.forward
    model.head.forward = own
    parts.learn(forward)
    assert vars(model.head)["forward"] is own


def test_a_call_that_fails_leaves_the_model_as_it_was(call):
    model, parts, forward = call
    parts.learn(forward)
    with pytest.raises(RuntimeError, match="shapes"):
        parts.run(lambda: model(torch.randn(3, 5)), lambda name: contextlib.nullcontext())
    assert all("forward" not in vars(child) for child in model.children())


def test_parts_of_what_holds_a_model(call):
    model, _, _ = call
    holder = nn.Module()
    holder.model = model
    assert Parts(holder, "before", "after").params() == {"backbone": 32, "unused": 2, "head": 18}


def test_flops_of_parts_are_those_of_the_whole(call):
    _, parts, forward = call
    parts.learn(forward)
    total, found = flops_of_parts(parts, forward)
    assert found == {"before": 2 * 48, "backbone": 2 * 96, "head": 4 * 48, "after": 2 * 12}
    assert total == sum(found.values())


def test_times_of_parts_are_the_sums_of_their_passes(call, monkeypatch):
    _, parts, forward = call
    parts.learn(forward)
    timed, times = timed_parts(parts, forward, "cpu")
    # The beginning and the end of before, backbone, head, head, after, in seconds.
    clock = iter([0, 1, 1, 3, 3, 6, 6, 10, 10, 15] * 2)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    timed()
    timed()
    expected = {"before": 1000, "backbone": 2000, "head": 7000, "after": 5000}
    assert times == {name: [value] * 2 for name, value in expected.items()}
    assert time.perf_counter is module.time.perf_counter
