"""Components that Detectron2 builds by name; importing this registers them."""

from .backbone import build_context_resnet_fpn_backbone
from .context import CONTEXT_REGISTRY
from .meta_arch import PaddingAwareGeneralizedRCNN, PaddingAwarePanopticFPN, padding_mask
from .sem_seg import ContextSemSegFPNHead, OCRSemSegFPNHead

__all__ = [
    "CONTEXT_REGISTRY",
    "ContextSemSegFPNHead",
    "OCRSemSegFPNHead",
    "PaddingAwareGeneralizedRCNN",
    "PaddingAwarePanopticFPN",
    "build_context_resnet_fpn_backbone",
    "padding_mask",
]
