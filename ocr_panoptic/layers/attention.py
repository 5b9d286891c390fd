"""The one scaled dot-product attention, and the 1x1 transforms that feed it."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from torch import Tensor, nn

__all__ = [
    "TILE",
    "attention",
    "check_padding_mask",
    "fold_norm",
    "multiply_rows",
    "pointwise_transform",
    "relation",
    "to_map",
    "to_rows",
]


TILE = 2048
"""Positions that an inference form takes at a time: at 512 channels, 12 MB in float32."""


def attention(
    query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention: softmax over the keys of query . key / sqrt(d), times value.

    Segmentation Transformer (OCR) paper, eq. 7 and 8. The query is scaled before the product where
    this matters, so half precision does not overflow.

    Args:
        query: (N, L, d), floating point.
        key: (N, S, d).
        value: (N, S, C); C may differ from d.
        key_padding_mask: (N, S) bool, True where a key is padding and must get no weight.

    Returns:
        (N, L, C). A batch element whose keys are all padding gives zeros, never NaN.
    """
    # As one head, of contiguous rows: torch's fused kernels take four dimensions and channels side
    # by side only. A copy is little beside the whole attention map that the fallback would keep.
    query, key, value = (part.contiguous().unsqueeze(1) for part in (query, key, value))
    scale = query.shape[3] ** -0.5
    if query.dtype == torch.float16:
        # That kernel would scale the product, which 16 bits may not hold.
        query, scale = query * scale, 1.0
    if key_padding_mask is None:
        return F.scaled_dot_product_attention(query, key, value, scale=scale).squeeze(1)
    # Where no key is valid all are let through, and the result is dropped: a softmax over
    # nothing would be NaN, in the output and in every gradient behind it.
    nothing = key_padding_mask.all(dim=1)
    allowed = (~key_padding_mask | nothing.unsqueeze(1)).view(-1, 1, 1, key.shape[2])
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scale)
    return out.squeeze(1).masked_fill(nothing.view(-1, 1, 1), 0.0)


def relation(query: Tensor, key: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
    """Return the weights that :func:`attention` gives to its values, for pictures.

    Args:
        query: (N, L, d).
        key: (N, S, d).
        key_padding_mask: (N, S) bool, True where a key is padding.

    Returns:
        (N, L, S), non-negative; sums over S are 1, or 0 where all keys are padding.
    """
    scores = torch.bmm(query * query.shape[2] ** -0.5, key.transpose(1, 2))
    if key_padding_mask is None:
        return scores.softmax(dim=2)
    padding = key_padding_mask.unsqueeze(1)
    scores = scores.masked_fill(padding, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=2).masked_fill(padding, 0.0)


def check_padding_mask(feats: Tensor, padding_mask: Tensor | None) -> None:
    """Check that a mask, if there is one, is one of the positions of a map.

    Args:
        feats: (N, C, H, W). What stands in its padding must be finite: its weight is zero, and
            zero times NaN is NaN.
        padding_mask: (N, H, W) bool, True where a position is padding.

    Raises:
        ValueError: if sizes differ, or the mask is not bool.
    """
    # Under tracing sizes are tensors, and a comparison would be baked in.
    if padding_mask is None or torch.jit.is_tracing():
        return
    if padding_mask.dtype != torch.bool:
        raise ValueError(f"padding_mask has dtype {padding_mask.dtype}, expected torch.bool")
    expected = (feats.shape[0], *feats.shape[2:])
    if tuple(padding_mask.shape) != expected:
        raise ValueError(
            f"padding_mask has batch size, height, width {tuple(padding_mask.shape)}, expected "
            f"{expected} of feats"
        )


def pointwise_transform(
    in_channels: int, out_channels: int, norm: str, depth: int = 1
) -> nn.Module:
    """Return ``depth`` times 1x1 convolution, norm, ReLU: the papers' transform functions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of every convolution's output.
        norm: a name that :func:`detectron2.layers.get_norm` knows, or "" for none. A convolution
            before a norm has no bias, which would never get a gradient.
        depth: how many convolutions, at least 1.

    Raises:
        ValueError: if ``depth`` is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth of a transform is {depth}, expected at least 1")
    layers = []
    for index in range(depth):
        layer = Conv2d(
            in_channels if index == 0 else out_channels,
            out_channels,
            kernel_size=1,
            bias=not norm,
            norm=get_norm(norm, out_channels),
            activation=F.relu,
        )
        weight_init.c2_msra_fill(layer)
        layers.append(layer)
    return nn.Sequential(*layers)


def fold_norm(conv: Conv2d) -> tuple[Tensor, Tensor | None, nn.Module | None]:
    """Fold a convolution's BatchNorm, in its evaluation form, into weight and bias.

    Nothing is cached: folding costs one product per weight, so the result can never be stale.

    Args:
        conv: a :class:`detectron2.layers.Conv2d` with its optional ``norm``.

    Returns:
        weight of the shape of ``conv.weight``, bias (C_out,) or None, and the norm that is left
        to apply because it depends on the input (GroupNorm), or None.
    """
    norm = conv.norm
    if isinstance(norm, nn.modules.batchnorm._BatchNorm | FrozenBatchNorm2d) and (
        norm.running_mean is not None
    ):
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
        bias = shift * scale
        if norm.bias is not None:
            bias = bias + norm.bias
        return conv.weight * scale.view(-1, *[1] * (conv.weight.dim() - 1)), bias, None
    return conv.weight, conv.bias, norm


def multiply_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """Apply a 1x1 convolution's weight to rows, without a copy of rows that are a transposed view.

    Args:
        rows: (N, L, C), any strides.
        weight: (C_out, C, 1, 1).

    Returns:
        (N, L, C_out), a new tensor that may be changed in place.
    """
    if rows.shape[0] == 1 and not torch.jit.is_tracing():
        # In bfloat16 on the CPU the product of a batch copies transposed rows, this one does not.
        return torch.mm(rows.squeeze(0), weight.flatten(1).t()).unsqueeze(0)
    return torch.bmm(rows, weight.flatten(1).t().expand(rows.shape[0], -1, -1))


def to_rows(feats: Tensor) -> Tensor:
    """View a map (N, C, H, W) as one row per position, (N, H * W, C)."""
    return feats.flatten(2).transpose(1, 2)


def to_map(rows: Tensor, like: Tensor) -> Tensor:
    """View rows (N, H * W, C) as a map (N, C, H, W) with the height and width of ``like``."""
    return rows.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)
