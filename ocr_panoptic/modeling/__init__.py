"""Components that Detectron2 builds by name; importing this registers them."""

from .meta_arch import PaddingAwareGeneralizedRCNN, PaddingAwarePanopticFPN, padding_mask
from .sem_seg import OCRSemSegFPNHead

__all__ = [
    "OCRSemSegFPNHead",
    "PaddingAwareGeneralizedRCNN",
    "PaddingAwarePanopticFPN",
    "padding_mask",
]
