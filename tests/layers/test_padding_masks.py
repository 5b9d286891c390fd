"""A mask that is not one of the map's positions is refused by every layer that takes one."""

import pytest
import torch

from ocr_panoptic.layers import (
    InterlacedSparseSelfAttention,
    NonLocal,
    OCRModule,
    SelfAttention,
)

LAYERS = {
    "ocr": OCRModule(8, 4, 8, norm="BN"),
    "isa": InterlacedSparseSelfAttention(8, partitions=(2, 2), norm="BN"),
    "self_attention": SelfAttention(8, norm="BN"),
    "non_local": NonLocal(8),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("padding_mask", "message"),
    [
        (torch.zeros(2, 3, 4), r"dtype torch\.float32, expected torch\.bool"),
        (torch.zeros(2, 4, 3, dtype=torch.bool), r"width \(2, 4, 3\), expected \(2, 3, 4\)"),
        (torch.zeros(1, 3, 4, dtype=torch.bool), r"width \(1, 3, 4\), expected \(2, 3, 4\)"),
        (torch.zeros(2, 1, 3, 4, dtype=torch.bool), r"width \(2, 1, 3, 4\), expected \(2, 3, 4\)"),
    ],
)
def test_a_wrong_mask_is_refused(name, training, padding_mask, message):
    layer = LAYERS[name].train(training)
    inputs = [torch.zeros(2, 8, 3, 4)] + ([torch.zeros(2, 5, 3, 4)] if name == "ocr" else [])
    with pytest.raises(ValueError, match=f"padding_mask has .*{message}"):
        layer(*inputs, padding_mask=padding_mask)
