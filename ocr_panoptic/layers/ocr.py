"""Object-contextual representations: each pixel sees the representations of its classes.

Yuan, Chen, Chen, Wang: "Segmentation Transformer: Object-Contextual Representations for Semantic
Segmentation", sec. 3.2 (eq. 3-6) and sec. 3.4, called "the paper" below.
"""

from __future__ import annotations

from collections.abc import Iterable

from detectron2.layers import Conv2d
from torch import Tensor

from .attention import attention, pointwise_transform, relation
from .region_context import RegionContext, check_region_norms, transform_regions

__all__ = ["OCRModule"]


class OCRModule(RegionContext):
    """Augments pixels with object-contextual representations (the paper's sec. 3.2, 3.4).

    The paper's symbols: f_k of eq. 4 are the region representations; phi is ``query``, psi
    ``key``, delta ``value``, rho ``output``, g ``fuse``. All are 1x1 convolution, norm, ReLU;
    phi, psi, delta give ``key_channels``, rho and g ``out_channels``.
    """

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
        self.query = pointwise_transform(in_channels, key_channels, norm, transform_layers)
        self.key = pointwise_transform(in_channels, key_channels, norm, transform_layers)
        self.build_transforms(in_channels, key_channels, out_channels, dropout, norm)
        check_region_norms(self.key)
        check_region_norms(self.value)

    def keys(self, region_vectors: Tensor) -> Tensor:
        """Return psi(f_k), (N, K, key_channels)."""
        return transform_regions(self.key, region_vectors)

    def pixel_layers(self) -> Iterable[Conv2d]:
        """Return the convolutions of phi."""
        return self.query

    def relations(self, query: Tensor, key: Tensor) -> Tensor:
        """Return w_ik of eq. 5, scaled as in eq. 7."""
        return relation(query, key)

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the same as the relations times the values, in one kernel."""
        return attention(query, key, value)
