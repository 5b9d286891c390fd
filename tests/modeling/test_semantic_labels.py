"""Labels without full-size logits: the same as with them, at every size."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from ocr_panoptic.modeling import semantic_labels as module
from ocr_panoptic.modeling.semantic_labels import CoarseHead, semantic_labels, semantic_logits

from ..models import small_model

SIZES = st.integers(1, 70)


def whole_map(logits, stride, image_size, output_size):
    """As Detectron2's head and postprocessing, all at once, with channels side by side."""
    logits = logits.unsqueeze(0).contiguous(memory_format=torch.channels_last)
    if stride != 1:
        logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    logits = logits[:, :, : image_size[0], : image_size[1]]
    return F.interpolate(logits, size=output_size, mode="bilinear", align_corners=False)[0]


def draw_logits(classes, image_size, stride, padding, seed, levels):
    """Logits of an image with some cells of padding; of few levels, so that many are equal."""
    cells = [-(-size // stride) + more for size, more in zip(image_size, padding, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(classes, *cells, generator=generator)
    return torch.round(logits * levels) / levels if levels else logits


@settings(deadline=None, max_examples=60)
@given(
    classes=st.sampled_from([1, 2, 7, 16, 17, 54, 133]),
    image_size=st.tuples(SIZES, SIZES),
    output_size=st.none() | st.tuples(SIZES, SIZES),
    stride=st.sampled_from([1, 2, 4, 8, 16]),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    levels=st.sampled_from([0, 1, 2]),
    strip=st.sampled_from([1, 500, 5000, 2**20]),
    seed=st.integers(0, 2**31),
)
@example(133, (70, 70), (33, 61), 4, (1, 2), 2, 1, 0)
@example(54, (1, 1), None, 4, (0, 0), 0, 1, 0)
def test_labels_are_those_of_the_whole_map(
    classes, image_size, output_size, stride, padding, levels, strip, seed
):
    logits = draw_logits(classes, image_size, stride, padding, seed, levels)
    arguments = logits, stride, image_size, output_size or image_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STRIP", strip)
        labels = semantic_labels(*arguments)
    expected = whole_map(*arguments)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, expected.argmax(dim=0))
    # Against Detectron2's own memory format: other only where two logits are equal but for
    # rounding.
    full = semantic_logits(*arguments)
    chosen = full.gather(0, labels.unsqueeze(0))[0]
    torch.testing.assert_close(chosen, full.amax(dim=0), rtol=0, atol=1e-5)


def test_logits_are_detectron2s():
    logits = draw_logits(7, (50, 70), 4, (1, 2), 0, 0)
    full = F.interpolate(logits.unsqueeze(0), scale_factor=4, mode="bilinear", align_corners=False)[
        0
    ]
    for size in ((50, 70), (33, 91)):
        expected = sem_seg_postprocess(full, (50, 70), *size)
        assert torch.equal(semantic_logits(logits, 4, (50, 70), size), expected)


def test_full_size_logits_are_never_there(monkeypatch):
    sizes = []
    interpolate = F.interpolate

    def noting(feats, *args, **kwargs):
        result = interpolate(feats, *args, **kwargs)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(F, "interpolate", noting)
    logits = torch.randn(54, 120, 160)
    semantic_labels(logits, 4, (480, 640), (480, 640))
    # A strip has a row of cells above and one below that are dropped.
    assert max(sizes) < 2 * module._STRIP < 54 * 480 * 640 / 7
    sizes.clear()
    semantic_labels(logits, 4, (479, 640), (300, 400))
    assert max(sizes) == 16 * 480 * 640


@pytest.mark.parametrize(("name", "stride"), [("ocr", 4), ("baseline", 4)])
@torch.no_grad()
def test_a_coarse_head_gives_what_the_head_enlarges(name, stride):
    model = small_model(name).eval()
    features = model.backbone(torch.randn(1, 3, 64, 96))
    coarse = CoarseHead(model.sem_seg_head)
    assert coarse.stride == stride
    logits, losses = coarse(features)
    assert losses == {}
    enlarged = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    assert torch.equal(enlarged, model.sem_seg_head(features)[0])


@torch.no_grad()
def test_a_head_of_ones_own_is_called_as_it_is():
    head = small_model("baseline").eval().sem_seg_head

    class Own(type(head)):
        def forward(self, features, targets=None):
            return -super().forward(features, targets)[0], {}

    head.__class__ = Own
    coarse = CoarseHead(head)
    assert coarse.stride == 1
    assert coarse.uses_ground_truth is False
    assert coarse.ignore_value == 255
    features = {f"p{level}": torch.randn(1, 32, 64 >> level, 64 >> level) for level in range(2, 6)}
    assert torch.equal(coarse(features)[0], head(features)[0])
    assert isinstance(coarse, nn.Module)
