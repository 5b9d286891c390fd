"""Pure modules: tensors in, tensors out. They know no config and no registry."""

from .attention import attention, pointwise_transform
from .context_layer import ContextLayer
from .isa import InterlacedSparseSelfAttention
from .non_local import NonLocal
from .object_context import BaseOC
from .ocr import OCRModule, region_representations, soft_object_regions
from .self_attention import SelfAttention

__all__ = [
    "BaseOC",
    "ContextLayer",
    "InterlacedSparseSelfAttention",
    "NonLocal",
    "OCRModule",
    "SelfAttention",
    "attention",
    "pointwise_transform",
    "region_representations",
    "soft_object_regions",
]
