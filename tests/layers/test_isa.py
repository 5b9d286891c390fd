"""Interlaced sparse self-attention against its equations, and its two forms against each other."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ocr_panoptic.layers import InterlacedSparseSelfAttention

from ..reference.self_attention import extend, product, receptive_set, stages_at
from ..reference.self_attention import relations as reference_relations
from .test_self_attention import (
    SIZES,
    as_stage,
    assert_equals_reference,
    assert_ignores_padding,
    assert_runs_in_half_precision,
    assert_trains,
    frozen_norms,
    gradcheck,
    images,
    make_feats,
    make_mask,
    make_masks,
    randomised,
)

FORMS = ["by_stages", "folded"]
ORDERS = [("global", "local"), ("local", "global"), ("global",), ("local",)]


def make_layer(partitions=(2, 3), channels=4, gain=1.6, **kwargs):
    kwargs = {"key_channels": 2, "value_channels": 3, "out_channels": 5, "norm": "BN", **kwargs}
    layer = InterlacedSparseSelfAttention(channels, partitions=partitions, **kwargs)
    return randomised(layer, gain)


def as_stages(layer):
    return [(stage, as_stage(layer.relations[stage])) for stage in layer.stages]


def assert_equals_equations(layer, feats, mask):
    size = tuple(feats.shape[2:])
    before = feats.clone()
    outputs = [getattr(layer, form)(feats, mask) for form in FORMS]
    assert torch.equal(feats, before)
    assert all(out.shape == (len(feats), 5, *size) for out in outputs)

    def reference(wanted, pixels, padding):
        return stages_at(wanted, pixels, padding, size, layer.partitions, as_stages(layer))

    assert_equals_reference(outputs, reference, feats, mask)


def by_slices(layer, feats):
    """Compute the layer without padding of any kind: groups are slices of the map as it is."""
    for stage, this in layer.relations.items():
        query, key, value = this.query(feats), this.key(feats), this.value(feats)
        context = torch.zeros_like(value)
        for row in slices(stage, feats.shape[2], layer.partitions[0]):
            for column in slices(stage, feats.shape[3], layer.partitions[1]):
                group = (..., row, column)
                context[group] = weigh(query[group], key[group], value[group])
        feats = this.output(context)
    return feats


def slices(stage, length, parts):
    if stage == "global":
        return [slice(start, None, parts) for start in range(min(parts, length))]
    return [slice(start, start + parts) for start in range(0, length, parts)]


def weigh(query, key, value):
    """Return the dense attention within maps, from its equation."""
    scores = torch.einsum("nchw,ncij->nhwij", query, key) / query.shape[1] ** 0.5
    weights = scores.flatten(3).softmax(dim=3).view_as(scores)
    return torch.einsum("nhwij,ncij->nchw", weights, value)


def algorithm_1(layer, feats):
    """Compute the paper's Algorithm 1, on a map that its authors' code padded with zeros."""
    (rows, columns), (height, width) = layer.partitions, feats.shape[2:]
    below, right = -height % rows, -width % columns
    x = nn.functional.pad(feats, (right // 2, right - right // 2, below // 2, below - below // 2))
    n, _, h, w = x.shape
    q_h, q_w = h // rows, w // columns

    def attend(stage, x):
        this = layer.relations[stage]
        return this.output(weigh(this.query(x), this.key(x), this.value(x)))

    x = x.reshape(n, -1, q_h, rows, q_w, columns).permute(0, 3, 5, 1, 2, 4)
    x = attend("global", x.reshape(n * rows * columns, -1, q_h, q_w))
    x = x.reshape(n, rows, columns, -1, q_h, q_w).permute(0, 4, 5, 3, 1, 2)
    x = attend("local", x.reshape(n * q_h * q_w, -1, rows, columns))
    x = x.reshape(n, q_h, q_w, -1, rows, columns).permute(0, 3, 1, 4, 2, 5).reshape(n, -1, h, w)
    return x[:, :, below // 2 : below // 2 + height, right // 2 : right // 2 + width]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("partitions", [1, 2, 8, 16, "larger than the map"])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_equations(size, partitions, masked):
    layer = make_layer(
        (partitions, partitions) if isinstance(partitions, int) else (size[0] + 3, size[1] + 1)
    )
    feats, mask = make_feats(size), make_masks(size)[masked]
    if size[0] > 20 and partitions not in (2, 8, 16):
        # All positions of a stage are one group; the second image is the one with padding.
        feats, mask = feats[1:], mask[1:] if masked else None
    assert_equals_equations(layer, feats, mask)


@pytest.mark.parametrize("stages", ORDERS)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_orders_equal_the_equations(stages, masked):
    layer = make_layer((3, 4), stages=stages)
    assert list(layer.relations) == list(stages)
    assert_equals_equations(layer, make_feats((7, 9)), make_masks((7, 9))[masked])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"norm": ""},
        {"transform_layers": 1},
        {"transform_layers": 3},
        {"value_channels": 4, "output_norm": "BN"},
    ],
)
@pytest.mark.parametrize("stages", ORDERS[:2])
@torch.no_grad()
def test_variants_equal_the_equations(kwargs, stages):
    layer = make_layer(stages=stages, **kwargs)
    assert_equals_equations(layer, make_feats((7, 8)), make_masks((7, 8))[1])


@torch.no_grad()
def test_group_norm_sees_the_whole_map():
    layer = make_layer(channels=4, key_channels=32, norm="GN")
    feats = make_feats((6, 9))
    expected = by_slices(layer, feats)
    torch.testing.assert_close(layer(feats), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(layer.by_stages(feats), expected, rtol=0, atol=1e-9)


def test_forward_takes_the_form_with_less_work_where_it_can():
    feats, mask = make_feats((4, 5)), make_masks((4, 5))[1]
    layer = make_layer()
    expected = layer.folded(feats, mask)
    layer.by_stages = None
    assert torch.equal(layer(feats, padding_mask=mask), expected)
    for layer in (make_layer(key_channels=32, norm="GN"), frozen_norms(make_layer())):
        expected = layer.by_stages(feats, mask)
        layer.folded = None
        assert torch.equal(layer(feats, padding_mask=mask), expected)


@pytest.mark.parametrize("size", [(8, 9), (7, 13), (1, 1)])
def test_padding_to_multiples_does_not_join_the_statistics_of_the_first_stage(size):
    layer = make_layer((4, 3), output_norm="BN").train()
    feats = 3 + make_feats(size)
    expected = copy.deepcopy(layer)
    by_slices(expected, feats)
    layer(feats)
    # Where nothing is padded, the second stage's are the same too; and nobody's is NaN.
    stage = "relations" if size == (8, 9) else "relations.global"
    buffers = dict(expected.named_buffers())
    same = [name for name in buffers if name.startswith(stage) and "output" not in name]
    assert len(same) >= 12
    for name, buffer in layer.named_buffers():
        assert buffer.isfinite().all()
        if name in same:
            torch.testing.assert_close(buffer, buffers[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [(8, 9), (7, 13), (1, 1), (5, 11)])
@pytest.mark.parametrize("partitions", [(4, 3), (8, 8)])
@pytest.mark.parametrize("output_norm", ["", "BN"])
def test_unmasked_is_algorithm_1(size, partitions, output_norm):
    layer = make_layer(partitions, mask_padding=False, output_norm=output_norm)
    feats, mask = make_feats(size), make_masks(size)[1]
    expected = algorithm_1(layer, feats)
    for form in FORMS:
        out = getattr(layer, form)(feats, mask)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    layer.train()
    expected = algorithm_1(copy.deepcopy(layer), feats)
    torch.testing.assert_close(layer(feats), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kwargs", [{"norm": ""}, {"norm": "BN", "output_norm": "BN"}])
@pytest.mark.parametrize("mode", [nn.Module.eval, frozen_norms])
def test_gradcheck(kwargs, mode):
    layer = make_layer((2, 2), 2, key_channels=1, value_channels=2, out_channels=2, **kwargs)
    gradcheck(mode(layer), (3, 3))


@pytest.mark.parametrize("stages", ORDERS)
@pytest.mark.parametrize("output_norm", ["", "BN"])
def test_forms_have_the_same_gradients(stages, output_norm):
    layer = make_layer(stages=stages, output_norm=output_norm, gain=1)
    feats, mask = make_feats((7, 8)), make_masks((7, 8))[1]
    inputs = [feats.requires_grad_(), *layer.parameters()]
    weights = make_feats((7, 8), channels=5, seed=2)
    expected, found = (
        torch.autograd.grad((getattr(layer, form)(feats, mask) * weights).sum(), inputs)
        for form in FORMS
    )
    assert expected[0].abs().max() > 1e-2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stages", ORDERS[:2])
@pytest.mark.parametrize("size", [(3, 4), (50, 84)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_forms_are_equal_in_single_precision(stages, size, memory_format):
    layer = make_layer((8, 8), 32, key_channels=16, gain=1, stages=stages).float()
    feats = make_feats(size, channels=32, dtype=torch.float32)
    feats = feats.contiguous(memory_format=memory_format)
    before = feats.clone()
    for mask in make_masks(size):
        expected = layer.by_stages(feats, mask)
        difference = (layer.folded(feats, mask) - expected).abs().max()
        assert difference < 1e-5 * expected.abs().max()
    assert torch.equal(feats, before)


def reached(layer, form, size, mask=None):
    """Return the positions that have a part in each position's output."""
    feats = make_feats(size, batch=1).requires_grad_()
    out = getattr(layer, form)(feats, mask).flatten(2)
    gradients = [
        torch.autograd.grad(out[0, :, i].sum(), feats, retain_graph=True)[0]
        for i in range(out.shape[2])
    ]
    return [set(grad.abs().sum(1).flatten().nonzero().flatten().tolist()) for grad in gradients]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stages", ORDERS[:2])
@pytest.mark.parametrize(
    ("size", "valid_size"), [((6, 9), None), ((5, 7), None), ((5, 7), (5, 6)), ((6, 9), (4, 7))]
)
def test_both_stages_together_reach_every_position(form, stages, size, valid_size):
    layer = make_layer((2, 3), stages=stages)
    mask = None if valid_size is None else make_mask(size, valid_size)
    valid = set(range(size[0] * size[1]))
    if mask is not None:
        valid = set((~mask).flatten().nonzero().flatten().tolist())
    found = reached(layer, form, size, mask)
    assert [found[i] for i in valid] == [valid] * len(valid)
    layer.mask_padding = False
    assert reached(layer, form, size) == [set(range(size[0] * size[1]))] * (size[0] * size[1])


@pytest.mark.parametrize("size", [(7, 13), (45, 45), (50, 84)])
@pytest.mark.parametrize("stages", ORDERS[:2])
def test_the_last_corner_reaches_every_position(size, stages):
    for partitions in ((2, 2), (8, 8), (16, 16), (size[0] + 3, size[1] + 1)):
        layer = make_layer(partitions, gain=0.5, stages=stages)
        for mask in make_masks(size):
            corner = (size[0] - 1, size[1] - 1)
            if mask is not None:
                corner = tuple((~mask[1]).nonzero().max(dim=0).values.tolist())
            dense = layer.relation(make_feats(size), corner, mask).dense[1]
            assert ((dense > 0) == (torch.ones(size).bool() if mask is None else ~mask[1])).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stage", ["global", "local"])
def test_one_stage_reaches_its_receptive_sets(form, stage):
    size, mask = (5, 7), make_mask((5, 7), (5, 6))
    valid = (~mask).flatten().nonzero().flatten().tolist()
    expected = [set(receptive_set(i, stage, size, (2, 3))) & set(valid) for i in valid]
    found = reached(make_layer((2, 3), stages=(stage,)), form, size, mask)
    assert [found[i] for i in valid] == expected
    assert max(map(len, expected)) < len(valid)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stages", ORDERS)
def test_output_does_not_depend_on_padding_of_a_batch(form, stages):
    layer = make_layer((8, 8), stages=stages)
    layer.forward = lambda feats, padding_mask=None: getattr(layer, form)(feats, padding_mask)
    assert_ignores_padding(layer, (50, 84), (64, 96), 1e6)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    partitions=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    filling=st.sampled_from([0.0, 1.0, -40.0, 1e6]),
    stages=st.sampled_from(ORDERS),
)
def test_output_does_not_depend_on_padding(size, more, partitions, filling, stages):
    layer = make_layer(partitions, stages=stages)
    padded_size = (size[0] + more[0], size[1] + more[1])
    assert_ignores_padding(layer, size, padded_size, filling)


@pytest.mark.parametrize("valid", [[(4, 4), (50, 50)], [(50, 50), (0, 0)]])
@pytest.mark.parametrize("stages", ORDERS[:2])
def test_trains_on_images_of_all_sizes(valid, stages):
    assert_trains(make_layer((8, 8), stages=stages), (50, 50), *valid)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_of_padding_has_no_gradient(form):
    layer = make_layer()
    feats = make_feats((5, 7)).requires_grad_()
    mask = make_mask((5, 7), (5, 7), (0, 0))
    out = getattr(layer, form)(feats, mask)
    assert out[1].count_nonzero() == 0
    out.square().sum().backward()
    assert feats.grad[0].abs().min() > 0
    assert feats.grad[1].count_nonzero() == 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 19)])
@torch.no_grad()
def test_runs_in_half_precision(training, size):
    layer = make_layer((8, 8))
    assert_runs_in_half_precision(frozen_norms(layer) if training else layer, size)


@pytest.mark.parametrize("stages", ORDERS)
@pytest.mark.parametrize("masked", [False, True])
def test_relations_equal_the_equations(stages, masked):
    size, layer = (5, 7), make_layer(stages=stages)
    feats, mask = make_feats(size), make_masks(size)[masked]
    assert_relations(layer, feats, mask, [(0, 0), (2, 3), (1, 2), (4, 6)])
    relations = layer.relation(feats, (1, 2), mask)
    assert (relations.global_ is None) == ("global" not in stages)
    assert (relations.local is None) == ("local" not in stages)
    torch.testing.assert_close(relations.dense.sum((1, 2)), torch.ones(2).double())
    assert mask is None or relations.dense[mask].count_nonzero() == 0
    first = relations.global_ if stages[0] == "global" else relations.local
    torch.testing.assert_close(first.sum((1, 2)), torch.ones(2).double())
    for weights in (weights for weights in relations if weights is not None):
        assert not weights.requires_grad
        assert weights.sum((1, 2)).max() < 1 + 1e-9


def assert_relations(layer, feats, mask, positions, padding=(0, 0, 0, 0)):
    """Compare with full N x N matrices on the map with padding (left, right, top, bottom)."""
    left, right, top, bottom = padding
    size = (feats.shape[2] + top + bottom, feats.shape[3] + left + right)
    padded = nn.functional.pad(feats, padding)
    for n, image in enumerate(images(padded, mask)):
        matrices = reference_relations(*image, size, layer.partitions, as_stages(layer))
        larger = extend(*image, size, layer.partitions)[2]
        expected = dict(zip(layer.stages, matrices, strict=True))
        # Eq. 9, whose permutations only bring both stages into the order of the map.
        expected["dense"] = product(matrices[1], matrices[0]) if len(matrices) > 1 else matrices[0]
        for row, column in positions:
            relations = layer.relation(feats, (row, column), mask)
            i = (row + top) * larger[1] + column + left
            found = dict(zip(("global", "local", "dense"), relations, strict=True))
            for name, matrix in expected.items():
                weights = torch.tensor(matrix[i], dtype=torch.float64).view(larger)
                weights = weights[top : size[0] - bottom, left : size[1] - right]
                torch.testing.assert_close(found[name][n], weights, rtol=0, atol=1e-9)


def test_relations_without_masking():
    layer = make_layer((4, 3), mask_padding=False)
    feats = make_feats((5, 7))
    assert_relations(layer, feats, None, [(0, 0), (2, 3), (4, 6)], padding=(1, 1, 1, 2))
    # Zeros around the map get the rest.
    assert layer.relation(feats, (0, 0)).dense.sum((1, 2)).max() < 0.999


def test_relations_are_the_weights_of_the_output():
    layer = make_layer(value_channels=4, out_channels=4)
    with torch.no_grad():
        for stage in layer.relations.values():
            for conv in (stage.value, stage.output):
                conv.weight.copy_(torch.eye(4).view(4, 4, 1, 1))
    feats, mask = make_feats((5, 7)), make_masks((5, 7))[1]
    out = layer(feats, padding_mask=mask)
    weights = layer.relation(feats, (1, 3), mask).dense
    expected = torch.einsum("nhw,nchw->nc", weights, feats)
    torch.testing.assert_close(out[:, :, 1, 3], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "stages", [(), ("global", "global"), ("dense",), ("global", "local", "local"), "global"]
)
def test_other_stages_are_named(stages):
    with pytest.raises(ValueError, match="expected one or both of global, local"):
        InterlacedSparseSelfAttention(4, stages=stages)


@pytest.mark.parametrize("partitions", [(0, 8), (8, -1), (8,), (2, 2, 2), (2.5, 2), (True, 2)])
def test_other_partitions_are_named(partitions):
    with pytest.raises(ValueError, match=r"partitions are .* expected two integers from 1"):
        InterlacedSparseSelfAttention(4, partitions=partitions)


def test_stages_have_the_published_widths():
    layer = InterlacedSparseSelfAttention(512, 256, norm="BN")
    transforms = 2 * (512 * 256 + 256 * 256 + 2 * 2 * 256)
    expected = 2 * (transforms + 512 * 256) + 256 * 512 + 256 * 256
    assert sum(p.numel() for p in layer.parameters()) == expected
    assert layer.partitions == (8, 8)
