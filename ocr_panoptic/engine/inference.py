"""The inference path: a model made ready to predict, as fast as its device can."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import PanopticFPN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn

from ocr_panoptic.errors import InputError
from ocr_panoptic.modeling.folding import fold_norms
from ocr_panoptic.modeling.merging import combine_semantic_and_instance_outputs
from ocr_panoptic.modeling.meta_arch import PaddingAwarePanopticFPN
from ocr_panoptic.modeling.semantic_labels import CoarseHead, semantic_labels, semantic_logits

from .prediction import load_model

__all__ = [
    "DTYPES",
    "InferenceModel",
    "load_for_inference",
    "native_dtype",
    "prepare_for_inference",
    "resolve_dtype",
]

DTYPES = ("auto", "float32", "bfloat16")
"""What :func:`prepare_for_inference` takes as ``dtype``."""

# The last layers, by their names. What they give is compared (logits) or added to positions
# (box deltas): the 8 bits of bfloat16 would make equal what is not. They cost little.
_OUTPUT_LAYERS = (
    *("predictor", "ocr_predictor", "context_predictor", "cls_score", "bbox_pred"),
    *("objectness_logits", "anchor_deltas"),
)
_WITH_WEIGHTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_CPUINFO = Path("/proc/cpuinfo")


def native_dtype(device: torch.device) -> str:
    """Return the dtype in which a device is fastest: "bfloat16" where it multiplies in it.

    Told by what the hardware says of itself, so that it is the same in every run on a machine: a
    CPU's flags ``avx512_bf16`` or ``amx_bf16`` (Linux tells them), a GPU's compute capability of
    8.0 or more. A CPU without them computes bfloat16 in float32, with conversions on top.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        with contextlib.suppress(OSError):
            for line in _CPUINFO.read_text().splitlines():
                name, _, flags = line.partition(":")
                if name.strip() == "flags":
                    native = {"avx512_bf16", "amx_bf16"} & set(flags.split())
                    return "bfloat16" if native else "float32"
    return "float32"


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """Return "float32" or "bfloat16": ``dtype``, or for "auto" the device's :func:`native_dtype`.

    Raises:
        InputError: if ``dtype`` is none of :data:`DTYPES`.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype '{dtype}', expected one of {', '.join(DTYPES)}")
    return native_dtype(device) if dtype == "auto" else dtype


def prepare_for_inference(
    model: nn.Module, *, dtype: str = "auto", keep_logits: bool = False
) -> InferenceModel:
    """Return a copy of a model that predicts the same faster; the model is not changed.

    Semantic labels are taken without logits at full size. In bfloat16 also norms of fixed
    statistics are folded into convolutions, maps have their channels side by side (channels_last),
    and convolutions and matrix products have weights and inputs in bfloat16; the last layers, and
    what is behind them, stay in float32.

    In float32 boxes, scores and masks are the model's to the last bit: folding and channels_last
    would round otherwise, for 3 % each. So are labels, but where the two highest logits of a pixel
    are equal but for rounding.

    Args:
        model: any of Detectron2's or this project's, its weights loaded, on its device.
        dtype: one of :data:`DTYPES`.
        keep_logits: give ``sem_seg`` as the model does, instead of its argmax, which costs less.

    Raises:
        InputError: if ``dtype`` is none of :data:`DTYPES`.
    """
    return InferenceModel(model, dtype=dtype, keep_logits=keep_logits)


def load_for_inference(cfg: CfgNode) -> InferenceModel:
    """Build a config's model with MODEL.WEIGHTS, for images alone, and prepare it in TEST.DTYPE.

    Args:
        cfg: checked by :func:`~.prediction.check_prediction`.

    Raises:
        InputError: as :func:`~.prediction.load_model` does, or if the model looks at true labels.
    """
    model = load_model(cfg)
    if any(getattr(module, "uses_ground_truth", False) for module in model.modules()):
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.CONTEXT.NAME: '{cfg.MODEL.SEM_SEG_HEAD.CONTEXT.NAME}' looks at "
            "the true labels, which images alone do not have; expected another scheme, or "
            "tools/train_net.py --eval-only"
        )
    return prepare_for_inference(model, dtype=cfg.TEST.DTYPE)


class InferenceModel(nn.Module):
    """What :func:`prepare_for_inference` returns.

    Attributes:
        model: the prepared copy.
        dtype: "float32" or "bfloat16".
        keep_logits: as given.
    """

    def __init__(self, model: nn.Module, *, dtype: str, keep_logits: bool) -> None:
        """Copy and prepare ``model``; arguments as of :func:`prepare_for_inference`."""
        super().__init__()
        self._device_type = next(model.parameters()).device.type
        self.dtype = resolve_dtype(dtype, next(model.parameters()).device)
        self.keep_logits = keep_logits
        # Of an architecture of one's own nothing is known but that it can be called.
        self._is_panoptic_fpn = getattr(type(model), "inference", None) in (
            PanopticFPN.inference,
            PaddingAwarePanopticFPN.inference,
        )
        self.model = copy.deepcopy(model).requires_grad_(False)
        if self.dtype == "bfloat16":
            fold_norms(self.model)
            _round_weights(self.model)
            self.model.to(memory_format=torch.channels_last)
            if hasattr(self.model, "backbone"):
                self.model.backbone.register_forward_pre_hook(_channels_last)
        if self._is_panoptic_fpn:
            self.model.sem_seg_head = CoarseHead(self.model.sem_seg_head)
        self.eval()

    def train(self, mode: bool = True) -> InferenceModel:
        """Stay in evaluation mode.

        Raises:
            RuntimeError: if ``mode`` is True: norms that are folded cannot be trained.
        """
        if mode:
            raise RuntimeError("a model prepared for inference cannot be trained")
        return super().train(False)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Any]]:
        """Predict a batch.

        Args:
            batched_inputs: as for the model in evaluation mode.

        Returns:
            What the model returns, a dict for each image. A Panoptic-FPN gives, without
            ``keep_logits``, ``sem_seg_labels`` (H, W) int64 instead of ``sem_seg`` (K, H, W); its
            panoptic map is merged by
            :func:`~ocr_panoptic.modeling.merging.combine_semantic_and_instance_outputs`.
        """
        with torch.autocast(
            self._device_type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"
        ):
            if not self._is_panoptic_fpn:
                return self.model(batched_inputs)
            predicted = self.model.inference(batched_inputs, do_postprocess=False)
        return [
            self._merge(inputs, _as_float32(detected), semantic.float())
            for inputs, detected, semantic in zip(batched_inputs, *predicted, strict=True)
        ]

    def _merge(self, inputs: dict, detected: Instances, semantic: Tensor) -> dict[str, Any]:
        image_size = detected.image_size
        size = inputs.get("height", image_size[0]), inputs.get("width", image_size[1])
        arguments = semantic, self.model.sem_seg_head.stride, image_size, size
        if self.keep_logits:
            result = {"sem_seg": semantic_logits(*arguments)}
            labels = result["sem_seg"].argmax(dim=0)
        else:
            result = {"sem_seg_labels": semantic_labels(*arguments)}
            labels = result["sem_seg_labels"]
        result["instances"] = detector_postprocess(detected, *size)
        result["panoptic_seg"] = combine_semantic_and_instance_outputs(
            result["instances"],
            labels,
            self.model.combine_overlap_thresh,
            self.model.combine_stuff_area_thresh,
            self.model.combine_instances_score_thresh,
        )
        return result


class _InFloat32(nn.Module):
    """A layer that computes in float32 whatever surrounds it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, feats: Tensor) -> Tensor:
        with torch.autocast(feats.device.type, enabled=False):
            return self.layer(feats.float())


def _round_weights(model: nn.Module) -> None:
    """Round all weights but the last layers' once, as autocast would at each call."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name in _OUTPUT_LAYERS and isinstance(child, _WITH_WEIGHTS):
                setattr(module, name, _InFloat32(child))
    kept = {
        id(layer)
        for wrapper in model.modules()
        if isinstance(wrapper, _InFloat32)
        for layer in wrapper.modules()
    }
    for layer in model.modules():
        if isinstance(layer, _WITH_WEIGHTS) and id(layer) not in kept:
            layer.to(torch.bfloat16)


def _as_float32(instances: Instances) -> Instances:
    """Return instances whose scores and masks do not depend on the names of the last layers."""
    result = Instances(instances.image_size)
    for name, value in instances.get_fields().items():
        floating = isinstance(value, Tensor) and value.is_floating_point()
        result.set(name, value.float() if floating else value)
    return result


def _channels_last(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    (images,) = args
    return (images.contiguous(memory_format=torch.channels_last),)
