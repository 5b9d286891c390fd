"""Pure modules: tensors in, tensors out. They know no config and no registry."""

from .attention import attention, pointwise_transform
from .ocr import OCRModule, region_representations, soft_object_regions

__all__ = [
    "OCRModule",
    "attention",
    "pointwise_transform",
    "region_representations",
    "soft_object_regions",
]
