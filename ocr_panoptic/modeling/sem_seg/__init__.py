"""Semantic heads."""

from .context_fpn_head import ContextSemSegFPNHead
from .ocr_fpn_head import OCRSemSegFPNHead

__all__ = ["ContextSemSegFPNHead", "OCRSemSegFPNHead"]
