"""What the OCR layer of a model looks at while it predicts an image."""

from __future__ import annotations

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..layers import OCRModule

__all__ = ["predict_with_regions"]


@torch.no_grad()
def predict_with_regions(model: nn.Module, inputs: dict) -> tuple[dict, Tensor | None]:
    """Predict one image and return its soft object regions too.

    Args:
        model: a Detectron2 model, in evaluation mode; with an :class:`~..layers.OCRModule` in it
            there are regions.
        inputs: one image in the format of Detectron2's models: "image" (3, H, W), "height" and
            "width".

    Returns:
        The model's result for the image, and its soft object regions (K, h, w) at the layer's
        stride without the batch's padding, or None for a model without an OCR layer.
    """
    calls: list[tuple] = []
    layers = [module for module in model.modules() if isinstance(module, OCRModule)]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: calls.append((layer, args)))
        for layer in layers
    ]
    try:
        result = model([inputs])[0]
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        return result, None
    layer, args = calls[-1]
    regions, _ = layer.regions_and_relations(*args)
    return result, _without_padding(regions[0], model, inputs)


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
