"""What the layers of a model are called with while it predicts an image."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from ocr_panoptic.layers import RegionContext

__all__ = ["padded_size", "predict_with_regions", "recorded_arguments", "without_padding"]


@torch.no_grad()
def predict_with_regions(model: nn.Module, inputs: dict) -> tuple[dict, Tensor | None]:
    """Predict one image and return its soft object regions too.

    The regions are the maps M of the Segmentation Transformer paper, sec. 3.2: the degree to which
    each position belongs to a class, the softmax over the classes of the region logits. (The
    weights of eq. 4, a softmax over the positions, peak on the few surest ones.)

    Args:
        model: a Detectron2 model, in evaluation mode; with a :class:`~..layers.RegionContext` in
            it, such as OCR, there are regions, unless they are the ground truth.
        inputs: one image in the format of Detectron2's models: "image" (3, H, W), "height" and
            "width".

    Returns:
        The model's result for the image, and its soft object regions (K, h, w), which sum to 1
        over K, at the layer's stride without the batch's padding; or None for a model without
        such a layer.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, RegionContext) and not layer.uses_ground_truth
    ]
    with recorded_arguments(layers) as calls:
        result = model([inputs])[0]
    if not calls:
        return result, None
    layer, last = list(calls.items())[-1]
    scores = layer.region_scores(last["feats"], last.get("region_logits"))
    regions = scores[0].float().softmax(dim=0)
    return result, without_padding(regions, model, inputs)


@contextmanager
def recorded_arguments(
    layers: Iterable[nn.Module],
) -> Iterator[dict[nn.Module, dict[str, Tensor | None]]]:
    """Record what layers are called with, while the context is open.

    Args:
        layers: modules of a model that is going to be called.

    Yields:
        layer -> name of an argument of its ``forward`` -> value, for the layers called so far, in
        the order of their last calls. Of a layer called several times, the last call.
    """
    calls: dict[nn.Module, dict[str, Tensor | None]] = {}

    def record(layer: nn.Module, args: tuple, kwargs: dict) -> None:
        given = inspect.signature(layer.forward).bind(*args, **kwargs).arguments
        calls.pop(layer, None)
        # Copies: what comes after the layer may change its input in place.
        calls[layer] = {
            name: value.detach().clone() if isinstance(value, Tensor) else value
            for name, value in given.items()
        }

    hooks = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def padded_size(model: nn.Module, inputs: dict) -> tuple[int, int]:
    """Return (height, width) of an image, alone in its batch, as the backbone of a model sees it.

    Args:
        model: a Detectron2 model.
        inputs: one image in the format of Detectron2's models.
    """
    padded = ImageList.from_tensors(
        [inputs["image"]],
        model.backbone.size_divisibility,
        padding_constraints=model.backbone.padding_constraints,
    )
    height, width = padded.tensor.shape[-2:]
    return height, width


def without_padding(maps: Tensor, model: nn.Module, inputs: dict) -> Tensor:
    """Cut maps (..., h, w) of a whole padded image to the cells that contain a pixel of it.

    Args:
        maps: at any stride.
        model: that they are of.
        inputs: the image, alone in its batch.
    """
    height, width = (
        -(-size * cells // full)
        for size, cells, full in zip(
            inputs["image"].shape[-2:], maps.shape[-2:], padded_size(model, inputs), strict=True
        )
    )
    return maps[..., :height, :width]
