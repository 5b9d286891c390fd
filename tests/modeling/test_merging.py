"""The panoptic map: Detectron2's own function, without its segments that have no pixels."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling.meta_arch import panoptic_fpn
from detectron2.structures import Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ocr_panoptic.modeling.merging import combine_semantic_and_instance_outputs
from ocr_panoptic.modeling.meta_arch.batch import batch_scope

from ..models import small_model


def scene(seed, count, size=(12, 15), labels=5, classes=3, scores=None):
    generator = np.random.default_rng(seed)
    height, width = size
    masks = np.zeros((count, height, width), dtype=bool)
    for mask in masks:
        top, bottom = sorted(generator.integers(0, height + 1, 2))
        left, right = sorted(generator.integers(0, width + 1, 2))
        mask[top:bottom, left:right] = generator.random((bottom - top, right - left)) < 0.9
    instances = Instances(size)
    instances.pred_masks = torch.from_numpy(masks)
    if scores is None:
        scores = generator.random(count)
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.from_numpy(generator.integers(0, classes, count))
    semantic = torch.from_numpy(generator.integers(0, labels, (height // 3 + 1, width // 3 + 1)))
    return instances, semantic.repeat_interleave(3, 0).repeat_interleave(3, 1)[:height, :width]


def without_empty_segments(panoptic_map, segments):
    """What Detectron2's result is expected to become."""
    numbers, kept = torch.zeros(len(segments) + 1, dtype=torch.int32), []
    for segment in segments:
        if (panoptic_map == segment["id"]).any():
            numbers[segment["id"]] = len(kept) + 1
            kept.append({**segment, "id": len(kept) + 1})
    return numbers[panoptic_map.long()], kept


def detectron2s(*arguments):
    """The function that ours is compared with.

    Its sort is not stable, on the CPU from 17 instances on: the one thing that is made so here.
    """
    with mock.patch.object(torch, "argsort", partial(torch.argsort, stable=True)):
        return panoptic_fpn.combine_semantic_and_instance_outputs(*arguments)


SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.7, 0.75, 1.0])


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scores=st.lists(SCORES, max_size=24),
    overlap=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    limit=st.sampled_from([0, 1, 4, 20, 1000]),
    score=st.sampled_from([0.0, 0.5, 0.7, 1.0, 1.5]),
    labels=st.integers(1, 6),
)
def test_is_detectron2s_without_empty_segments(seed, scores, overlap, limit, score, labels):
    instances, semantic = scene(seed, len(scores), labels=labels, scores=scores)
    given_masks, given_labels = instances.pred_masks.clone(), semantic.clone()
    merged, segments = combine_semantic_and_instance_outputs(
        instances, semantic, overlap, limit, score
    )
    theirs = detectron2s(instances, semantic, overlap, limit, score)
    expected_map, expected_segments = without_empty_segments(*theirs)
    assert merged.dtype == theirs[0].dtype
    torch.testing.assert_close(merged, expected_map, rtol=0, atol=0)
    assert segments == expected_segments
    # The same types too: json writes 1, 1.0 and True differently.
    assert [[type(value) for value in segment.values()] for segment in segments] == [
        [type(value) for value in segment.values()] for segment in expected_segments
    ]
    present = set(merged.unique().tolist()) - {0}
    assert present == {segment["id"] for segment in segments} == set(range(1, len(segments) + 1))
    # Its arguments are as they were.
    assert torch.equal(instances.pred_masks, given_masks)
    assert torch.equal(semantic, given_labels)


@pytest.mark.parametrize(("overlap", "limit"), [(1.0, 4096), (0.5, 0)])
def test_detectron2_makes_segments_without_pixels(overlap, limit):
    # The reason for a function of our own.
    instances, semantic = scene(0, 2, scores=[0.9, 0.8])
    instances.pred_masks[:] = True
    theirs = detectron2s(instances, semantic, overlap, limit, 0.5)
    assert len(without_empty_segments(*theirs)[1]) < len(theirs[1])
    _, segments = combine_semantic_and_instance_outputs(instances, semantic, overlap, limit, 0.5)
    assert [segment["id"] for segment in segments] == [1]


def test_equal_scores_keep_their_order():
    count = 300
    instances, semantic = scene(1, count, scores=[0.75] * count)
    instances.pred_masks[:] = False
    instances.pred_masks.flatten(1)[:, :] = torch.eye(count, 180, dtype=torch.bool)
    arguments = instances, semantic, 0.5, 4096, 0.5
    _, segments = combine_semantic_and_instance_outputs(*arguments)
    assert [segment["instance_id"] for segment in segments] == list(range(180))
    _, segments = panoptic_fpn.combine_semantic_and_instance_outputs(*arguments)
    assert [segment["instance_id"] for segment in segments] != list(range(180))


def test_no_instance_and_no_stuff_is_void():
    instances, semantic = scene(2, 0)
    merged, segments = combine_semantic_and_instance_outputs(instances, semantic * 0, 0.5, 0, 0.5)
    assert not merged.any()
    assert segments == []


class CountTransfers(TorchDispatchMode):
    """Counts what makes the CPU wait for a GPU: numbers read, and results of unknown size."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "bincount")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.count += name in self.WAITS
        if name in ("index", "index_put_"):
            indices = [index for index in args[1] if index is not None]
            self.count += any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        return function(*args, **(kwargs or {}))


def test_waits_do_not_grow_with_the_instances():
    def waits(function, count):
        arguments = scene(3, count, scores=[0.9] * count)
        with CountTransfers() as transfers:
            function(*arguments, 0.5, 4, 0.5)
        return transfers.count

    ours = [waits(combine_semantic_and_instance_outputs, count) for count in (1, 40)]
    assert ours[0] == ours[1]
    # tolist, which reads a whole tensor at once, is seen as no scalar.
    assert ours[0] <= 2
    theirs = [waits(detectron2s, count) for count in (1, 40)]
    assert theirs[1] > theirs[0] + 39


def test_the_model_merges_by_it():
    overrides = ["MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 0]
    overrides += ["MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH", 1.0]
    overrides += ["MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0]
    overrides += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
    model = small_model("ocr", overrides).eval()
    stock = small_model("baseline", overrides)
    assert set(stock.state_dict()) <= set(model.state_dict())
    images = torch.randint(0, 256, (2, 3, 96, 120), generator=torch.Generator().manual_seed(0))
    batch = [
        {"image": images[0].float(), "height": 61, "width": 73},
        {"image": images[1, :, :64].float()},
    ]
    with torch.no_grad(), batch_scope():
        results = model(batch)
        # Everything of Detectron2's but the merge is Detectron2's.
        theirs = panoptic_fpn.PanopticFPN.inference(model, batch)
    for result, their, size in zip(results, theirs, ((61, 73), (64, 120)), strict=True):
        assert list(result) == list(their)
        torch.testing.assert_close(result["sem_seg"], their["sem_seg"])
        assert len(result["instances"]) == len(their["instances"]) > 0
        torch.testing.assert_close(result["instances"].scores, their["instances"].scores)
        panoptic_map, segments = result["panoptic_seg"]
        assert panoptic_map.shape == size
        present = set(panoptic_map.unique().tolist()) - {0}
        assert present == {segment["id"] for segment in segments}
        assert len(segments) <= len(their["panoptic_seg"][1])


def test_the_documented_thresholds_are_detectron2s():
    combine = get_cfg().MODEL.PANOPTIC_FPN.COMBINE
    thresholds = combine.OVERLAP_THRESH, combine.STUFF_AREA_LIMIT
    assert (*thresholds, combine.INSTANCES_CONFIDENCE_THRESH) == (0.5, 4096, 0.5)
    assert "by default 0.5, 4096 and 0.5" in combine_semantic_and_instance_outputs.__doc__
