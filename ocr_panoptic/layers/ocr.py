"""Object-contextual representations: each pixel sees the representations of its classes.

Yuan, Chen, Chen, Wang: "Segmentation Transformer: Object-Contextual Representations for Semantic
Segmentation", sec. 3.2 (eq. 3-6) and sec. 3.4, called "the paper" below.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import (
    TILE,
    attention,
    check_padding_mask,
    fold_norm,
    multiply_rows,
    pointwise_transform,
    relation,
    to_map,
    to_rows,
)
from .context_layer import ContextLayer

__all__ = ["OCRModule", "region_representations", "soft_object_regions"]


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


def region_representations(feats: Tensor, regions: Tensor) -> Tensor:
    """Aggregate pixel representations into one vector per region (eq. 4).

    Args:
        feats: (N, C, H, W).
        regions: (N, K, H, W) from :func:`soft_object_regions`.

    Returns:
        (N, K, C).
    """
    return torch.bmm(regions.flatten(2), to_rows(feats))


class OCRModule(ContextLayer):
    """Augments pixels with object-contextual representations (the paper's sec. 3.2, 3.4).

    The paper's symbols: f_k of eq. 4 are the region representations; phi is ``query``, psi
    ``key``, delta ``value``, rho ``output``, g ``fuse``. All are 1x1 convolution, norm, ReLU;
    phi, psi, delta give ``key_channels``, rho and g ``out_channels``.

    In training the equations are computed step by step (:meth:`textbook`). In evaluation mode the
    same function is computed without what algebra saves (:meth:`folded`).

    With BatchNorm in evaluation mode and a padding mask, the output at valid positions does not
    depend on the padding. GroupNorm in ``query``, ``output`` or ``fuse`` takes its statistics over
    the whole map, padding included, and so does BatchNorm in training.
    """

    uses_regions = True

    def __init__(
        self,
        in_channels: int = 512,
        key_channels: int = 256,
        out_channels: int = 512,
        *,
        dropout: float = 0.05,
        norm: str = "SyncBN",
        transform_layers: int = 2,
    ) -> None:
        """Build the transforms of sec. 3.4.

        Args:
            in_channels: channels of the pixel representations.
            key_channels: channels of query, key and value (256 in the paper).
            out_channels: channels of rho and g (512 in the paper).
            dropout: probability of dropping a channel of the output in training, as in the
                authors' code (0.05).
            norm: name of the norm of every transform, see :func:`detectron2.layers.get_norm`.
                GroupNorm normalises each region by itself in the transforms of regions.
            transform_layers: 1x1-norm-ReLU of query and key: 2 as in the authors' code, 1 as in
                the paper's text.

        Raises:
            ValueError: if ``transform_layers`` is below 1, or GroupNorm has one channel a group in
                the transforms of regions: normalised alone, every number becomes zero.
        """
        super().__init__()
        self.out_channels = out_channels
        self.query = pointwise_transform(in_channels, key_channels, norm, transform_layers)
        self.key = pointwise_transform(in_channels, key_channels, norm, transform_layers)
        self.value = pointwise_transform(in_channels, key_channels, norm)
        self.output = pointwise_transform(key_channels, out_channels, norm)
        self.fuse = pointwise_transform(out_channels + in_channels, out_channels, norm)
        self.dropout = nn.Dropout2d(dropout)
        for module in (*self.key.modules(), *self.value.modules()):
            if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels:
                raise ValueError(
                    f"GroupNorm of {module.num_groups} groups over {module.num_channels} channels "
                    "erases region vectors, expected more channels"
                )

    def forward(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the augmented representations z of eq. 6.

        Args:
            feats: (N, C, H, W), the pixel representations x.
            region_logits: (N, K, H, W), the coarse segmentation M, not normalised.
            padding_mask: (N, H, W) bool, True where a position is padding: it joins no region.

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: if spatial sizes or batch sizes differ, or the mask is not bool.
        """
        _check_sizes(feats, region_logits, padding_mask)
        if self.training:
            return self.textbook(feats, region_logits, padding_mask)
        return self.folded(feats, region_logits, padding_mask)

    def textbook(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Compute eq. 3-6 one after the other; arguments and result as in :meth:`forward`."""
        regions = soft_object_regions(region_logits, padding_mask)
        region_vectors = region_representations(feats, regions)
        relations = relation(
            to_rows(self.query(feats)), _transform_regions(self.key, region_vectors)
        )
        context = torch.bmm(relations, _transform_regions(self.value, region_vectors))
        augmented = torch.cat([self.output(to_map(context, feats)), feats], dim=1)
        return self.dropout(self.fuse(augmented))

    def folded(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the same function as :meth:`textbook` in evaluation mode, with less work.

        BatchNorm is folded into the convolutions. The relations of a pixel sum to 1, so rho's
        convolution and bias are applied to the K region vectors before they are mixed instead of
        to every pixel after. g's convolution is applied to its two inputs one after the other,
        so that they are never concatenated. GroupNorm, which depends on its input, stays; without
        it, pixels go through in tiles whose intermediate results fit a processor's cache.
        """
        regions = soft_object_regions(region_logits, padding_mask)
        region_vectors = region_representations(feats, regions)
        key = _transform_regions(self.key, region_vectors)
        weight, bias, output_norm = fold_norm(self.output[0])
        value = F.linear(_transform_regions(self.value, region_vectors), weight.flatten(1), bias)

        fuse_weight, fuse_bias, fuse_norm = fold_norm(self.fuse[0])
        (query_weight, query_bias, query_norm), *more_query = map(fold_norm, self.query)
        width = fuse_weight.shape[0]
        weight_of_context = fuse_weight[:, :width]
        # g and the first query transform read the same pixels: one product for both.
        weight_of_pixels = torch.cat([fuse_weight[:, width:], query_weight])

        def augment(pixels: Tensor) -> Tensor:
            both = multiply_rows(pixels, weight_of_pixels)
            fused, query = both[..., :width], both[..., width:]
            query = _finish(query, query_bias, query_norm)
            for weight, bias, norm in more_query:
                query = _finish(multiply_rows(query, weight), bias, norm)
            context = _finish(attention(query, key, value), None, output_norm)
            fused = multiply_rows(context, weight_of_context).add_(fused)
            return _finish(fused, fuse_bias, fuse_norm)

        pixels = to_rows(feats)
        norms = (output_norm, fuse_norm, query_norm, *(norm for _, _, norm in more_query))
        if torch.jit.is_tracing() or any(norm is not None for norm in norms):
            # A trace must not depend on the number of tiles, nor GroupNorm on their size.
            return to_map(augment(pixels), feats)
        tiles = pixels.split(TILE, dim=1)
        return to_map(torch.cat([augment(tile) for tile in tiles], dim=1), feats)

    def regions_and_relations(
        self, feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what the module looks at, for pictures; arguments as in :meth:`forward`.

        Returns:
            The soft object regions m~ of eq. 4, (N, K, H, W), each map with sum 1; and the
            pixel-region relations w of eq. 5, (N, K, H, W), which sum to 1 over K.
        """
        _check_sizes(feats, region_logits, padding_mask)
        regions = soft_object_regions(region_logits, padding_mask)
        region_vectors = region_representations(feats, regions)
        key = _transform_regions(self.key, region_vectors)
        relations = relation(to_rows(self.query(feats)), key)
        return regions, to_map(relations, feats)


def _transform_regions(transform: nn.Module, region_vectors: Tensor) -> Tensor:
    """Apply a 1x1 transform to region vectors (N, K, C), giving (N, K, C_out).

    Every region is a batch element of its own: the same as one (K, 1) map for BatchNorm, whose
    statistics run over N and K anyway, while GroupNorm does not mix regions.
    """
    batch, num_regions, channels = region_vectors.shape
    columns = region_vectors.reshape(batch * num_regions, channels, 1, 1)
    return transform(columns).view(batch, num_regions, -1)


def _finish(rows: Tensor, bias: Tensor | None, norm: nn.Module | None) -> Tensor:
    """Add a bias to (N, L, C), apply the norm that could not be folded, and ReLU, in place."""
    if bias is not None:
        rows = rows.add_(bias)
    if norm is not None:
        # As a map of one column: Detectron2's LayerNorm takes no other shape.
        rows = norm(rows.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
    return rows.relu_()


def _check_sizes(feats: Tensor, region_logits: Tensor, padding_mask: Tensor | None) -> None:
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
