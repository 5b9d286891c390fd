"""Context that pixels get from region vectors: what OCR and its ablations share.

Yuan, Chen, Chen, Wang: "Segmentation Transformer: Object-Contextual Representations for Semantic
Segmentation", sec. 3.2 (eq. 3-6) and sec. 3.4, called "the paper" below.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .attention import (
    TILE,
    check_padding_mask,
    fold_norm,
    multiply_rows,
    pointwise_transform,
    to_map,
    to_rows,
)
from .context_layer import ContextLayer

__all__ = [
    "RegionContext",
    "check_num_classes",
    "check_region_norms",
    "check_regions",
    "divided_by_mass",
    "region_representations",
    "soft_object_regions",
    "transform_regions",
]


def soft_object_regions(region_logits: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Normalise each class's logits over the positions: the paper's m~ of eq. 4.

    Args:
        region_logits: (N, K, H, W), the coarse segmentation before any softmax.
        padding_mask: (N, H, W) bool, True where a position is padding and gets weight 0.

    Returns:
        (N, K, H, W), each (H, W) map non-negative with sum 1; zeros where no position is valid.
    """
    flat = region_logits.flatten(2)
    if padding_mask is None:
        return flat.softmax(dim=2).view_as(region_logits)
    padding = padding_mask.flatten(1).unsqueeze(1)
    # The lowest finite number instead of -inf: a map without a valid position stays finite, in
    # its gradient too, until it is set to zero.
    lowest = torch.finfo(flat.dtype).min
    weights = flat.masked_fill(padding, lowest).softmax(dim=2).masked_fill(padding, 0.0)
    return weights.view_as(region_logits)


def divided_by_mass(maps: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Divide maps that are not negative by their sums over the positions.

    Args:
        maps: (N, K, H, W).
        padding_mask: (N, H, W) bool, True where a position is padding and gets weight 0.

    Returns:
        (N, K, H, W), each (H, W) map with sum 1; zeros where the sum is 0.
    """
    if padding_mask is not None:
        maps = maps.masked_fill(padding_mask.unsqueeze(1), 0.0)
    # Half precision cannot count as many positions as a map has.
    counting = torch.promote_types(maps.dtype, torch.float32)
    masses = maps.sum(dim=(2, 3), keepdim=True, dtype=counting)
    return (maps / masses.masked_fill(masses == 0, 1.0)).to(maps.dtype)


def region_representations(feats: Tensor, regions: Tensor) -> Tensor:
    """Aggregate pixel representations into one vector per region (eq. 4).

    Args:
        feats: (N, C, H, W).
        regions: (N, K, H, W) from :func:`soft_object_regions`.

    Returns:
        (N, K, C).
    """
    return torch.bmm(regions.flatten(2), to_rows(feats))


class RegionContext(ContextLayer):
    """Augments pixels with a mixture of transformed region vectors (eq. 3, 4 and 6).

    The paper's symbols: f_k of eq. 4 are the region vectors, w_ik of eq. 3 the relations; delta is
    ``value``, rho ``output``, g ``fuse``, all 1x1 convolution, norm, ReLU. A scheme says where its
    regions (:meth:`object_regions`) and its relations (:meth:`relations`) come from; a query is
    what a pixel brings to its relations.

    In training the equations are computed step by step (:meth:`textbook`). In evaluation mode the
    same function is computed without what algebra saves (:meth:`folded`).

    With BatchNorm in evaluation mode and a padding mask, the output at valid positions does not
    depend on the padding. GroupNorm in a transform of pixels takes its statistics over the whole
    map, padding included, and so does BatchNorm in training.

    Attributes:
        relations_sum_to_one: the relations of every pixel do.
    """

    uses_regions = True
    relations_sum_to_one = True

    def build_transforms(
        self, in_channels: int, key_channels: int, out_channels: int, dropout: float, norm: str
    ) -> None:
        """Build delta, rho and g, and the dropout behind them.

        Args:
            in_channels: channels of the pixel representations.
            key_channels: channels of delta.
            out_channels: channels of rho and g.
            dropout: probability of dropping a channel of the output in training.
            norm: name of the norm of every transform.
        """
        self.out_channels = out_channels
        self.value = pointwise_transform(in_channels, key_channels, norm)
        self.output = pointwise_transform(key_channels, out_channels, norm)
        self.fuse = pointwise_transform(out_channels + in_channels, out_channels, norm)
        self.dropout = nn.Dropout2d(dropout)

    def check(
        self, feats: Tensor, region_logits: Tensor | None, padding_mask: Tensor | None
    ) -> None:
        """Raise ValueError for arguments of :meth:`forward` that do not fit together."""
        check_regions(feats, region_logits, padding_mask)

    def region_scores(self, feats: Tensor, region_logits: Tensor) -> Tensor:
        """Return M, (N, K, H, W), from which the regions come; arguments as in :meth:`forward`."""
        return region_logits

    def object_regions(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None
    ) -> Tensor:
        """Return m~ of eq. 4, (N, K, H, W); arguments as in :meth:`forward`."""
        return soft_object_regions(self.region_scores(feats, region_logits), padding_mask)

    def region_vectors(self, feats: Tensor, regions: Tensor) -> Tensor:
        """Return f_k of eq. 4, (N, K, channels), given m~."""
        return region_representations(feats, regions)

    def values(self, region_vectors: Tensor, regions: Tensor) -> Tensor:
        """Return delta(f_k), (N, K, key_channels).

        Args:
            region_vectors: f_k, (N, K, channels).
            regions: m~, (N, K, H, W).
        """
        return transform_regions(self.value, region_vectors)

    def keys(self, region_vectors: Tensor) -> Tensor | None:
        """Return what :meth:`relations` compares pixels with; None where it compares nothing."""
        return None

    def pixel_layers(self) -> Iterable[Conv2d]:
        """Return the 1x1 convolutions that make a pixel's query of it, in order."""
        return ()

    def given_queries(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None
    ) -> Tensor | None:
        """Return queries (N, H * W, d) of pixels where no :meth:`pixel_layers` make them."""
        return None

    def relations(self, query: Tensor, key: Tensor | None) -> Tensor:
        """Return w_ik of eq. 3, (N, L, K).

        Args:
            query: (N, L, d), of :meth:`pixel_layers` or :meth:`given_queries`.
            key: of :meth:`keys`.
        """
        raise NotImplementedError

    def mix(self, query: Tensor, key: Tensor | None, value: Tensor) -> Tensor:
        """Return the sum over the regions of w_ik times value, (N, L, channels of value)."""
        return torch.bmm(self.relations(query, key), value)

    def forward(
        self,
        feats: Tensor,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the augmented representations z of eq. 6.

        Args:
            feats: (N, C, H, W), the pixel representations x.
            region_logits: (N, K, H, W), the coarse segmentation M, not normalised.
            padding_mask: (N, H, W) bool, True where a position is padding: it joins no region.

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: if spatial sizes or batch sizes differ, the mask is not bool, or
                ``region_logits`` is missing.
        """
        self.check(feats, region_logits, padding_mask)
        if self.training:
            return self.textbook(feats, region_logits, padding_mask)
        return self.folded(feats, region_logits, padding_mask)

    def textbook(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Compute eq. 3-6 one after the other; arguments and result as in :meth:`forward`."""
        return self.augmented(feats, self.context(feats, region_logits, padding_mask))

    def context(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Compute eq. 3-5 without rho: what a pixel gets of the regions.

        Args:
            feats: as in :meth:`forward`, and so are the others.

        Returns:
            (N, key_channels, H, W).
        """
        regions, region_vectors, relations = self._look(feats, region_logits, padding_mask)
        return to_map(torch.bmm(relations, self.values(region_vectors, regions)), feats)

    def augmented(self, feats: Tensor, context: Tensor) -> Tensor:
        """Compute rho and eq. 6 of pixels and their :meth:`context`; gives (N, out, H, W)."""
        return self.dropout(self.fuse(torch.cat([self.output(context), feats], dim=1)))

    def folded(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the same function as :meth:`textbook` in evaluation mode, with less work.

        BatchNorm is folded into the convolutions. rho's convolution is applied to the K region
        vectors before they are mixed instead of to every pixel after, and its bias too where the
        relations of a pixel sum to 1. g's convolution is applied to its two inputs one after the
        other, so that they are never concatenated. GroupNorm, which depends on its input, stays;
        without it, pixels go through in tiles whose intermediate results fit a processor's cache.
        """
        regions = self.object_regions(feats, region_logits, padding_mask)
        region_vectors = self.region_vectors(feats, regions)
        key = self.keys(region_vectors)
        output_weight, output_bias, output_norm = fold_norm(self.output[0])
        value = F.linear(self.values(region_vectors, regions), output_weight.flatten(1))
        if self.relations_sum_to_one and output_bias is not None:
            value, output_bias = value + output_bias, None

        fuse_weight, fuse_bias, fuse_norm = fold_norm(self.fuse[0])
        width = fuse_weight.shape[0]
        weight_of_context, weight_of_pixels = fuse_weight[:, :width], fuse_weight[:, width:]
        layers = list(self.pixel_layers())
        folded = [fold_norm(layer) for layer in layers]
        if folded:
            # g and the first query transform read the same pixels: one product for both.
            weight_of_pixels = torch.cat([weight_of_pixels, folded[0][0]])

        def augment(pixels: Tensor, query: Tensor | None) -> Tensor:
            both = multiply_rows(pixels, weight_of_pixels)
            fused = both[..., :width]
            for index, (layer, (weight, bias, norm)) in enumerate(zip(layers, folded, strict=True)):
                query = multiply_rows(query, weight) if index else both[..., width:]
                query = _finish(query, bias, norm, layer.activation is not None)
            context = _finish(self.mix(query, key, value), output_bias, output_norm)
            fused = multiply_rows(context, weight_of_context).add_(fused)
            return _finish(fused, fuse_bias, fuse_norm)

        pixels, queries = to_rows(feats), self.given_queries(feats, region_logits, padding_mask)
        norms = (output_norm, fuse_norm, *(norm for _, _, norm in folded))
        if torch.jit.is_tracing() or any(norm is not None for norm in norms):
            # A trace must not depend on the number of tiles, nor GroupNorm on their size.
            return to_map(augment(pixels, queries), feats)
        tiles = pixels.split(TILE, dim=1)
        asked = [None] * len(tiles) if queries is None else queries.split(TILE, dim=1)
        augmented = [augment(*tile) for tile in zip(tiles, asked, strict=True)]
        return to_map(torch.cat(augmented, dim=1), feats)

    def regions_and_relations(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what the module looks at, for pictures; arguments as in :meth:`forward`.

        Returns:
            The object regions m~ of eq. 4, (N, K, H, W), each map with sum 1; and the
            pixel-region relations w of eq. 3, (N, K, H, W), which sum to 1 over K. With the
            ground truth, absent classes and pixels without label have zeros only.
        """
        self.check(feats, region_logits, padding_mask)
        regions, _, relations = self._look(feats, region_logits, padding_mask)
        return regions, to_map(relations, feats)

    def _look(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return regions (N, K, H, W), their vectors (N, K, C) and relations (N, L, K)."""
        regions = self.object_regions(feats, region_logits, padding_mask)
        region_vectors = self.region_vectors(feats, regions)
        query = self.given_queries(feats, region_logits, padding_mask)
        if query is None:
            pixels = feats
            for layer in self.pixel_layers():
                pixels = layer(pixels)
            query = to_rows(pixels)
        return regions, region_vectors, self.relations(query, self.keys(region_vectors))


def transform_regions(transform: nn.Module, region_vectors: Tensor) -> Tensor:
    """Apply a 1x1 transform to region vectors (N, K, C), giving (N, K, C_out).

    Every region is a batch element of its own: the same as one (K, 1) map for BatchNorm, whose
    statistics run over N and K anyway, while GroupNorm does not mix regions.
    """
    batch, num_regions, channels = region_vectors.shape
    columns = region_vectors.reshape(batch * num_regions, channels, 1, 1)
    return transform(columns).view(batch, num_regions, -1)


def check_region_norms(transform: nn.Module) -> None:
    """Check that the norms of a transform of regions leave something of a region.

    Raises:
        ValueError: if GroupNorm has one channel a group: normalised alone, every number becomes
            zero.
    """
    for module in transform.modules():
        if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels:
            raise ValueError(
                f"GroupNorm of {module.num_groups} groups over {module.num_channels} channels "
                "erases region vectors, expected more channels"
            )


def check_regions(feats: Tensor, region_logits: Tensor | None, padding_mask: Tensor | None) -> None:
    """Check that regions are there, and that they and a mask are of the positions of a map.

    Raises:
        ValueError: if sizes differ, the mask is not bool, or regions are missing.
    """
    if region_logits is None:
        raise ValueError("region_logits is None, expected those of a coarse prediction")
    check_padding_mask(feats, padding_mask)
    # Under tracing sizes are tensors, and a comparison would be baked in.
    if torch.jit.is_tracing():
        return
    expected = (feats.shape[0], *feats.shape[2:])
    found = (region_logits.shape[0], *region_logits.shape[2:])
    if found != expected:
        raise ValueError(
            f"region_logits has batch size, height, width {found}, expected {expected} of feats"
        )


def check_num_classes(region_logits: Tensor, num_classes: int) -> None:
    """Check that region logits have one map for each class that a layer was built for.

    Raises:
        ValueError: if they have not.
    """
    if not torch.jit.is_tracing() and region_logits.shape[1] != num_classes:
        raise ValueError(
            f"region_logits has {region_logits.shape[1]} classes, expected num_classes "
            f"({num_classes})"
        )


def _finish(rows: Tensor, bias: Tensor | None, norm: nn.Module | None, relu: bool = True) -> Tensor:
    """Add a bias to (N, L, C), apply the norm that could not be folded, and ReLU, in place."""
    if bias is not None:
        rows = rows.add_(bias)
    if norm is not None:
        # As a map of one column: Detectron2's LayerNorm takes no other shape.
        rows = norm(rows.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
    return rows.relu_() if relu else rows
