"""Semantic heads."""

from .ocr_fpn_head import OCRSemSegFPNHead

__all__ = ["OCRSemSegFPNHead"]
