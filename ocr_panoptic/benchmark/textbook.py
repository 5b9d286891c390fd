"""Layers computed as the papers write them down: what the inference forms are measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ocr_panoptic.layers import InterlacedSparseSelfAttention, OCRModule, SelfAttention
from ocr_panoptic.layers.attention import relation, to_map, to_rows
from ocr_panoptic.layers.partition import crop, pad, padding_to_multiple

__all__ = ["ExplicitSelfAttention", "StagewiseISA", "TextbookISA", "TextbookOCR"]


class ExplicitSelfAttention(nn.Module):
    """Dense self-attention that keeps the whole relation matrix (OCNet paper, eq. 10 and 11)."""

    def __init__(self, layer: SelfAttention) -> None:
        """Take the weights of ``layer``."""
        super().__init__()
        self.layer = layer

    def forward(
        self, feats: Tensor, *, region_logits: None = None, padding_mask: None = None
    ) -> Tensor:
        """Map (N, C, H, W) to (N, C_out, H, W)."""
        query, key, value = (to_rows(part) for part in self.layer.project(feats))
        return self.layer.output(to_map(torch.bmm(relation(query, key), value), feats))


class TextbookISA(nn.Module):
    """Algorithm 1 of the OCNet paper, line by line: groups are made before every transform."""

    def __init__(self, layer: InterlacedSparseSelfAttention) -> None:
        """Take the weights of ``layer``, whose stages are global, then local."""
        super().__init__()
        self.partitions = layer.partitions
        self.global_attention, self.local_attention = map(
            ExplicitSelfAttention, layer.relations.values()
        )

    def forward(
        self, feats: Tensor, *, region_logits: None = None, padding_mask: None = None
    ) -> Tensor:
        """Map (N, C, H, W) to (N, C_out, H, W); zeros at both sides make a multiple."""
        padding = padding_to_multiple(feats.shape[2:], self.partitions, both_sides=True)
        feats = pad(feats, padding)
        batch, channels, height, width = feats.shape
        p_h, p_w = self.partitions
        q_h, q_w = height // p_h, width // p_w
        feats = feats.reshape(batch, channels, q_h, p_h, q_w, p_w).permute(0, 3, 5, 1, 2, 4)
        feats = self.global_attention(feats.reshape(batch * p_h * p_w, channels, q_h, q_w))
        feats = feats.reshape(batch, p_h, p_w, channels, q_h, q_w).permute(0, 4, 5, 3, 1, 2)
        feats = self.local_attention(feats.reshape(batch * q_h * q_w, channels, p_h, p_w))
        feats = feats.reshape(batch, q_h, q_w, -1, p_h, p_w).permute(0, 3, 1, 4, 2, 5)
        return crop(feats.reshape(batch, -1, height, width), padding)


class StagewiseISA(nn.Module):
    """ISA one stage after the other in evaluation mode too; unlike Algorithm 1 it takes a mask."""

    def __init__(self, layer: InterlacedSparseSelfAttention) -> None:
        """Take the weights of ``layer``."""
        super().__init__()
        self.layer = layer

    def forward(
        self, feats: Tensor, *, region_logits: None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Map (N, C, H, W) to (N, C_out, H, W)."""
        return self.layer.by_stages(feats, padding_mask)


class TextbookOCR(nn.Module):
    """OCR as its equations read, in evaluation mode too."""

    def __init__(self, layer: OCRModule) -> None:
        """Take the weights of ``layer``."""
        super().__init__()
        self.layer = layer

    def forward(self, feats: Tensor, *, region_logits: Tensor, padding_mask: None = None) -> Tensor:
        """Map (N, C, H, W) and (N, K, H, W) to (N, C_out, H, W)."""
        return self.layer.textbook(feats, region_logits)
