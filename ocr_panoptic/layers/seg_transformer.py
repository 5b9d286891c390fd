"""OCR in the words of the Transformer, with as many layers as one likes.

Yuan, Chen, Chen, Wang: "Segmentation Transformer: Object-Contextual Representations for Semantic
Segmentation", sec. 3.3 and Fig. 4, called "the paper" below; Vaswani et al.: "Attention Is All You
Need" (NIPS 2017), called "the Transformer".
"""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from .attention import attention, to_map, to_rows
from .context_layer import ContextLayer
from .region_context import (
    check_num_classes,
    check_regions,
    region_representations,
    soft_object_regions,
)

__all__ = ["SegmentationTransformer"]


class SegmentationTransformer(ContextLayer):
    """Category queries look at pixels (decoder), pixels at the categories (encoder), repeatedly.

    A layer of Fig. 4, where every unit is followed by the sum with its input and a norm:

    * decoder: self-attention of the K category queries, their cross-attention to the pixels, FFN;
    * encoder: cross-attention of the pixels to the decoder's output, FFN.

    The next layer takes the queries and the pixels that come out. The paper leaves open, decided
    here:

    * The soft object regions of the first layer are the supervised coarse prediction, spatially
      normalised (eq. 4). Sec. 3.3 says that the category queries are "the linear projections used
      to classify the pixels", and those are in the coarse predictor, whose loss Table 1 shows to
      matter. So the first cross-attention has its weights, the same for every head, and needs no
      query and no key. In later layers queries find their own regions, by eq. 7.
    * A learned vector of each category, ``queries``, is what the first decoder layer adds to.
    * Decoder self-attention begins with the second layer: "can be discarded for a single decoder
      layer", and before anything was seen, it would only make constants of constants.
    * The encoder's own self-attention, "optional", is left out: it is SA or ISA.
    * As in the Transformer: the norm is LayerNorm over the channels of each position, projections
      have no bias, the FFN is two layers with a ReLU between and is four times as wide inside.
      Attention is as wide as OCR's: half of the input. No positions are encoded.

    With a padding mask, the output at valid positions does not depend on the padding.
    """

    uses_regions = True

    def __init__(
        self,
        in_channels: int = 512,
        *,
        num_classes: int,
        key_channels: int = 256,
        ffn_channels: int | None = None,
        num_layers: int = 1,
        num_heads: int = 8,
        dropout: float = 0.05,
    ) -> None:
        """Build the layers.

        Args:
            in_channels: channels of the pixel representations, of the queries, and of the result.
            num_classes: K, the number of category queries.
            key_channels: channels of query, key and value, of all heads together.
            ffn_channels: channels inside the FFNs; None for four times ``in_channels``.
            num_layers: how many layers, at least 1.
            num_heads: heads of each attention.
            dropout: probability of dropping a channel of the output in training.

        Raises:
            ValueError: if ``num_layers`` is below 1, or the heads do not share ``key_channels``
                evenly.
        """
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"number of layers is {num_layers}, expected at least 1")
        if num_heads < 1 or key_channels % num_heads:
            raise ValueError(
                f"{num_heads} heads for {key_channels} channels of query and key, expected a "
                "number of heads that divides them"
            )
        self.out_channels = in_channels
        self.num_classes = num_classes
        # Of length 1 at the start, as the rows of a linear classifier are about.
        self.queries = nn.Parameter(torch.randn(num_classes, in_channels) * in_channels**-0.5)
        widths = (in_channels, key_channels, ffn_channels or 4 * in_channels, num_heads)
        self.layers = nn.ModuleList(
            _Layer(*widths, regions_are_given=index == 0) for index in range(num_layers)
        )
        self.dropout = nn.Dropout2d(dropout)

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the pixels that come out of the last encoder layer.

        Args:
            feats: (N, C, H, W), the pixel representations.
            region_logits: (N, K, H, W), the coarse segmentation, not normalised.
            padding_mask: (N, H, W) bool, True where a position is padding: no query looks at it.

        Returns:
            (N, C, H, W).

        Raises:
            ValueError: if sizes or K differ, the mask is not bool, or ``region_logits`` is
                missing.
        """
        check_regions(feats, region_logits, padding_mask)
        check_num_classes(region_logits, self.num_classes)
        regions = soft_object_regions(region_logits, padding_mask)
        # Queries are a map of one column, so that both sides go through the same 1x1 convolutions.
        queries = self.queries.t().unsqueeze(0).unsqueeze(3).expand(len(feats), -1, -1, -1)
        for layer in self.layers:
            feats, queries = layer(feats, queries, regions, padding_mask)
        return self.dropout(feats)


class _Layer(nn.Module):
    """One decoder and one encoder layer of Fig. 4."""

    def __init__(
        self,
        channels: int,
        key_channels: int,
        ffn_channels: int,
        num_heads: int,
        regions_are_given: bool,
    ) -> None:
        super().__init__()
        attention_widths = (channels, key_channels, num_heads)
        if regions_are_given:
            self.region_value = _projection(channels, key_channels)
            self.region_output = _projection(key_channels, channels)
        else:
            self.decoder_self_attention = _Attention(*attention_widths)
            self.decoder_self_norm = get_norm("LN", channels)
            self.decoder_attention = _Attention(*attention_widths)
        self.decoder_norm = get_norm("LN", channels)
        self.decoder_ffn = _FeedForward(channels, ffn_channels)
        self.decoder_ffn_norm = get_norm("LN", channels)
        self.encoder_attention = _Attention(*attention_widths)
        self.encoder_norm = get_norm("LN", channels)
        self.encoder_ffn = _FeedForward(channels, ffn_channels)
        self.encoder_ffn_norm = get_norm("LN", channels)
        self.regions_are_given = regions_are_given

    def forward(
        self, feats: Tensor, queries: Tensor, regions: Tensor, padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the next pixels (N, C, H, W) and queries (N, C, K, 1), given these."""
        if self.regions_are_given:
            # Projected after the sum: the same as before it, for K vectors instead of all pixels.
            seen = to_map(region_representations(feats, regions), queries)
            seen = self.region_output(self.region_value(seen))
        else:
            seen = self.decoder_self_attention(queries, queries)
            queries = self.decoder_self_norm(queries + seen)
            seen = self.decoder_attention(queries, feats, padding_mask)
        queries = self.decoder_norm(queries + seen)
        queries = self.decoder_ffn_norm(queries + self.decoder_ffn(queries))
        feats = self.encoder_norm(feats + self.encoder_attention(feats, queries))
        return self.encoder_ffn_norm(feats + self.encoder_ffn(feats)), queries


class _Attention(nn.Module):
    """Multi-head attention between two maps, which may be one."""

    def __init__(self, channels: int, key_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = _projection(channels, key_channels)
        self.key = _projection(channels, key_channels)
        self.value = _projection(channels, key_channels)
        self.output = _projection(key_channels, channels)

    def forward(self, asking: Tensor, asked: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return what each position of ``asking`` gets of those of ``asked``, like ``asking``.

        Args:
            asking: (N, C, H, W).
            asked: (N, C, H', W').
            padding_mask: (N, H', W') bool, True where a position must get no weight.
        """
        # A head is a batch element of its own.
        query, key, value = (
            to_rows(part.unflatten(1, (self.num_heads, -1)).flatten(0, 1))
            for part in (self.query(asking), self.key(asked), self.value(asked))
        )
        if padding_mask is not None:
            padding_mask = padding_mask.flatten(1).repeat_interleave(self.num_heads, dim=0)
        mixed = to_map(attention(query, key, value, padding_mask), asking)
        return self.output(mixed.unflatten(0, (-1, self.num_heads)).flatten(1, 2))


class _FeedForward(nn.Sequential):
    """Two 1x1 convolutions with a ReLU between."""

    def __init__(self, channels: int, ffn_channels: int) -> None:
        super().__init__(
            Conv2d(channels, ffn_channels, kernel_size=1, activation=F.relu),
            Conv2d(ffn_channels, channels, kernel_size=1),
        )
        weight_init.c2_msra_fill(self[0])
        weight_init.c2_xavier_fill(self[1])


def _projection(in_channels: int, out_channels: int) -> Conv2d:
    conv = Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    weight_init.c2_xavier_fill(conv)
    return conv
