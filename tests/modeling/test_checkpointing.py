"""Activations computed again: the same numbers, less memory."""

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import nn

from ocr_panoptic.modeling.checkpointing import checkpointed


def make_stage():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.5)),
        *(nn.Conv2d(8, 4, 1), NaiveSyncBatchNorm(4)),
    )


def train_once(function):
    stage = make_stage()
    feats = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    torch.manual_seed(2)  # dropout
    out = function(stage, feats)
    out.square().sum().backward()
    state = {name: buffer.clone() for name, buffer in stage.named_buffers()}
    grads = {name: parameter.grad for name, parameter in stage.named_parameters()}
    return {"out": out.detach(), "feats": feats.grad, **grads, **state}


def test_gradients_statistics_and_dropout_are_the_same_bit_for_bit():
    plain = train_once(lambda stage, feats: stage(feats))
    again = train_once(lambda stage, feats: checkpointed(stage, stage, feats))
    assert set(plain) == set(again)
    assert plain["1.running_mean"].abs().max() > 0
    assert plain["1.num_batches_tracked"] == 1
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_keeps_less_for_the_backward_pass():
    def kept(function):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            feats = torch.randn(2, 3, 5, 6, requires_grad=True)
            function(make_stage(), feats)
        return sum(sizes)

    plain = kept(lambda stage, feats: stage(feats))
    again = kept(lambda stage, feats: checkpointed(stage, stage, feats))
    assert again < plain / 5


def test_runs_once_where_nothing_is_trained():
    calls = []

    def function(feats):
        calls.append(1)
        return feats * 2

    with torch.no_grad():
        out = checkpointed(nn.Identity(), function, torch.ones(2))
    assert torch.equal(out, torch.full((2,), 2.0))
    assert len(calls) == 1


def test_statistics_are_put_back_also_after_an_error():
    stage = make_stage()
    count = 0

    def fails_the_second_time(feats):
        nonlocal count
        count += 1
        out = stage[:2](feats)
        if count == 2:
            raise RuntimeError("inside")
        return stage[2:](out)

    feats = torch.randn(2, 3, 5, 6, requires_grad=True)
    out = checkpointed(stage, fails_the_second_time, feats)
    before = stage[1].running_mean.clone()
    with pytest.raises(RuntimeError, match="inside"):
        out.sum().backward()
    assert torch.equal(stage[1].running_mean, before)
