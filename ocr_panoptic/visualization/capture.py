"""What the OCR layer of a model looks at while it predicts an image."""

from __future__ import annotations

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from ocr_panoptic.layers import OCRModule

__all__ = ["predict_with_regions"]


@torch.no_grad()
def predict_with_regions(model: nn.Module, inputs: dict) -> tuple[dict, Tensor | None]:
    """Predict one image and return its soft object regions too.

    The regions are the maps M of the Segmentation Transformer paper, sec. 3.2: the degree to which
    each position belongs to a class, the softmax over the classes of the region logits. (The
    weights of eq. 4, a softmax over the positions, peak on the few surest ones.)

    Args:
        model: a Detectron2 model, in evaluation mode; with an :class:`~..layers.OCRModule` in it
            there are regions.
        inputs: one image in the format of Detectron2's models: "image" (3, H, W), "height" and
            "width".

    Returns:
        The model's result for the image, and its soft object regions (K, h, w), which sum to 1
        over K, at the layer's stride without the batch's padding; or None for a model without an
        OCR layer.
    """
    seen: list[Tensor] = []
    hooks = [
        # The layer's arguments: pixels, region logits, padding mask.
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        for layer in model.modules()
        if isinstance(layer, OCRModule)
    ]
    try:
        result = model([inputs])[0]
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        return result, None
    regions = seen[-1][0].float().softmax(dim=0)
    return result, _without_padding(regions, model, inputs)


def _without_padding(regions: Tensor, model: nn.Module, inputs: dict) -> Tensor:
    """Cut regions to the cells that contain a pixel of the image."""
    image = inputs["image"]
    padded = ImageList.from_tensors([image], model.backbone.size_divisibility).tensor
    height, width = (
        -(-size * cells // full)
        for size, cells, full in zip(
            image.shape[-2:], regions.shape[-2:], padded.shape[-2:], strict=True
        )
    )
    return regions[:, :height, :width]
