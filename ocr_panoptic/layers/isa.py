"""Interlaced sparse self-attention (ISA): a global and a local stage instead of dense attention.

Yuan et al.: "OCNet: Object Context for Semantic Segmentation" (IJCV), sec. 3.2 and Algorithm 1,
called "the paper" below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .attention import TILE, attention, check_padding_mask, fold_norm, relation
from .context_layer import ContextLayer
from .partition import (
    crop,
    deinterlace,
    divide,
    exchange,
    interlace,
    merge,
    pad,
    padding_to_multiple,
)
from .self_attention import SelfAttention

__all__ = ["InterlacedSparseSelfAttention", "Relations"]

# Stage -> (map to groups of tokens, groups of tokens to map).
_GROUPING = {"global": (interlace, deinterlace), "local": (divide, merge)}


class Relations(NamedTuple):
    """What one pixel looks at; each (N, H, W), or None without such a stage.

    Weights of the first stage and of ``dense`` have the sum 1. In the second stage some may lie on
    padding that hands on what it got; unmasked, the rest of all three does.

    Attributes:
        global_: in the global stage, on that stage's input.
        local: in the local stage, on that stage's input.
        dense: on the layer's input, through all stages: the pixel's row of the dense relation
            matrix of eq. 9.
    """

    global_: Tensor | None
    local: Tensor | None
    dense: Tensor


class InterlacedSparseSelfAttention(ContextLayer):
    """Self-attention among positions P apart, then in windows of P x P: together, everywhere.

    Each stage is a :class:`~.self_attention.SelfAttention` with weights of its own, applied to
    groups of positions. The transforms are pointwise and see the whole map before it is grouped,
    so every norm works, GroupNorm included.

    In evaluation mode with BatchNorm the same function is computed with less work
    (:meth:`folded`), otherwise stage by stage (:meth:`by_stages`).

    With masking, padding is no key of the first stage. It is a query that asks nothing, so it gets
    the mean of its group, and hands it on in the second stage: a window that the border of the
    image cuts off has a position for every group of the global stage all the same, and each
    valid position sees each other one. Without that, a pixel in the corner of 50x84 would see 616
    of 4200. With BatchNorm in evaluation mode the output at valid positions does not depend on
    padding to the right and at the bottom.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        partitions: tuple[int, int] = (8, 8),
        stages: Sequence[str] = ("global", "local"),
        mask_padding: bool = True,
        **kwargs,
    ) -> None:
        """Build the stages.

        Args:
            in_channels: channels of the input, and of the result of a stage before the last.
            out_channels: channels of the result; None for ``in_channels``.
            partitions: (P_h, P_w), the stride of the global stage's groups and the size of the
                local stage's windows.
            stages: one or both of "global" and "local", in order of application (the paper's
                Table 1 compares orders).
            mask_padding: keep the content of padding, the batch's and that to multiples of the
                partitions, out of the attention. Off, the map is padded with zeros at both sides
                and they join the attention, as in the authors' code.
            **kwargs: of each stage's SelfAttention.

        Raises:
            ValueError: for partitions that are not two integers from 1, or other stages.
        """
        super().__init__()
        if not stages or len(set(stages)) < len(stages) or not set(stages) <= set(_GROUPING):
            raise ValueError(f"stages are {tuple(stages)}, expected one or both of global, local")
        self.partitions = tuple(partitions)
        if len(self.partitions) != 2 or not all(type(p) is int and p > 0 for p in self.partitions):
            raise ValueError(f"partitions are {self.partitions}, expected two integers from 1")
        self.out_channels = out_channels or in_channels
        self.stages = tuple(stages)
        self.mask_padding = mask_padding
        # Named by stage, so that weights of the orders differ in nothing but the order.
        self.relations = nn.ModuleDict(
            {
                stage: SelfAttention(
                    in_channels, out_channels if stage == stages[-1] else in_channels, **kwargs
                )
                for stage in stages
            }
        )

    def forward(
        self,
        feats: Tensor,
        *,
        region_logits: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the context z^l of every position (eq. 5, 6).

        Args:
            feats: (N, C, H, W), of any size from 1x1.
            region_logits: not used.
            padding_mask: (N, H, W) bool, True where a position is padding.

        Returns:
            (N, out_channels, H, W). Zeros before rho where a group has no valid position.

        Raises:
            ValueError: if sizes differ, or the mask is not bool.
        """
        check_padding_mask(feats, padding_mask)
        if self.training or not all(map(_folds, self.relations.values())):
            return self.by_stages(feats, padding_mask)
        return self.folded(feats, padding_mask)

    def by_stages(self, feats: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Compute one stage after the other; arguments and result as in :meth:`forward`."""
        grid = _Grid(feats, self.partitions, self.mask_padding)
        feats, mask = grid.begin(feats, padding_mask)
        for stage, layer in self.relations.items():
            feats, mask = _attend(grid, stage, layer, feats, mask)
        return crop(feats, grid.padding)

    def folded(self, feats: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Compute the same function as :meth:`by_stages` in evaluation mode, with less work.

        BatchNorm is folded into the convolutions. A map is grouped once instead of its query, key
        and value, and goes from stage to stage in groups. rho of a stage before the last is
        linear, so it is multiplied into the transforms of the next, and never applied to a pixel.
        Groups go through in tiles whose intermediate results fit a processor's cache.
        """
        grid = _Grid(feats, self.partitions, self.mask_padding)
        feats, mask = grid.begin(feats, padding_mask)
        first, last = self.stages[0], self.stages[-1]
        tokens, mask = grid.group(first, feats), grid.group_mask(first, mask)
        before = None
        for stage, layer in self.relations.items():
            if stage != first:
                groups = len(tokens) // len(feats)
                tokens = exchange(tokens, groups)
                mask = None if mask is None else exchange(_without_key(mask), groups).squeeze(2)
            transforms = _FoldedTransforms(layer, before)
            before = None if stage == last else transforms.take_linear_output()
            tokens = transforms.attend(tokens, mask)
        return crop(grid.ungroup(last, tokens), grid.padding)

    @torch.no_grad()
    def relation(
        self, feats: Tensor, position: tuple[int, int], padding_mask: Tensor | None = None
    ) -> Relations:
        """Return what one pixel looks at, for pictures.

        The dense relation is the pixel's row of W = W^l P^T W^g P (eq. 9): the sum over k of
        W_l[i, k] W_g[k, j], with the weights of every k. (Algorithm 2 of the paper takes one
        row of W_g for all k of a group, hence its checkered maps.)

        Args:
            feats: (N, C, H, W).
            position: (row, column) of the pixel that looks.
            padding_mask: as in :meth:`forward`.
        """
        grid = _Grid(feats, self.partitions, self.mask_padding)
        pixel = feats.new_zeros(len(feats), 1, *feats.shape[2:])
        pixel[:, :, position[0], position[1]] = 1
        pixel = pad(pixel, grid.padding)
        feats, mask = grid.begin(feats, padding_mask)
        seen = []
        for stage, layer in self.relations.items():
            seen.append((grid, stage, layer, feats, mask))
            if stage != self.stages[-1]:
                feats, mask = _attend(grid, stage, layer, feats, mask)
        dense, alone = pixel, {}
        for given in reversed(seen):
            alone[given[1]] = _trace_back(*given, pixel)
            dense = _trace_back(*given, dense)
        maps = (alone.get("global"), alone.get("local"), dense)
        return Relations(
            *(None if row is None else crop(row, grid.padding).squeeze(1) for row in maps)
        )


class _Grid:
    """Where the groups of both stages are in a map of one size.

    Attributes:
        partitions: (P_h, P_w), with masking no larger than the map: the groups are the same.
        padding: that makes the map a multiple of them, as :func:`pad` takes it.
    """

    def __init__(self, feats: Tensor, partitions: tuple[int, int], mask_padding: bool) -> None:
        height, width = feats.shape[2:]
        if mask_padding:
            partitions = min(partitions[0], height), min(partitions[1], width)
        self.partitions, self.mask_padding = partitions, mask_padding
        self.padding = padding_to_multiple((height, width), partitions, both_sides=not mask_padding)
        left, right, top, bottom = self.padding
        self.size = height + top + bottom, width + left + right

    def begin(self, feats: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the map and the mask to begin with, None where nothing is masked.

        With masking the map is padded only when it is grouped, behind the first transforms, so
        that nothing joins the statistics of their norms.
        """
        if not self.mask_padding:
            return pad(feats, self.padding), None
        if padding_mask is None and any(self.padding):
            padding_mask = feats.new_zeros((len(feats), *feats.shape[2:]), dtype=torch.bool)
        return feats, padding_mask

    def group(self, stage: str, feats: Tensor, value: float = 0) -> Tensor:
        """Return the groups of a map, before or after padding."""
        if tuple(feats.shape[2:]) != self.size:
            feats = pad(feats, self.padding, value)
        return _GROUPING[stage][0](feats, self.partitions)

    def group_mask(self, stage: str, mask: Tensor | None) -> Tensor | None:
        """Return (N, H, W) in groups, (G, L)."""
        return None if mask is None else self.group(stage, mask.unsqueeze(1), True).squeeze(2)

    def ungroup(self, stage: str, tokens: Tensor) -> Tensor:
        """Return the map of groups, with padding."""
        return _GROUPING[stage][1](tokens, self.size, self.partitions)


def _attend(
    grid: _Grid, stage: str, layer: SelfAttention, feats: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Apply one stage to a map; return its map, and which positions of it know of no valid one."""
    query, key, value, mask = _tokens(grid, stage, layer, feats, mask)
    feats = layer.output(grid.ungroup(stage, attention(query, key, value, mask)))
    if mask is not None:
        mask = grid.ungroup(stage, _without_key(mask)).squeeze(1)
    return feats, mask


def _tokens(
    grid: _Grid, stage: str, layer: SelfAttention, feats: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return query, key, value and mask in groups. Padding asks nothing: its query is zero."""
    query, key, value = (grid.group(stage, part) for part in layer.project(feats))
    mask = grid.group_mask(stage, mask)
    if mask is not None:
        query = query.masked_fill(mask.unsqueeze(2), 0.0)
    return query, key, value, mask


def _trace_back(
    grid: _Grid,
    stage: str,
    layer: SelfAttention,
    feats: Tensor,
    mask: Tensor | None,
    weights: Tensor,
) -> Tensor:
    """Turn weights of a stage's results, (N, 1, H, W), into weights of its input."""
    query, key, _, mask = _tokens(grid, stage, layer, feats, mask)
    looks = torch.bmm(grid.group(stage, weights).transpose(1, 2), relation(query, key, mask))
    return grid.ungroup(stage, looks.transpose(1, 2))


def _without_key(mask: Tensor) -> Tensor:
    """Say of tokens (G, L) which have nothing but padding in their group, (G, L, 1)."""
    return mask.all(dim=1, keepdim=True).expand_as(mask).unsqueeze(2)


class _FoldedTransforms:
    """The transforms of a SelfAttention in evaluation mode, as products of rows and weights."""

    def __init__(self, layer: SelfAttention, before: Tensor | None) -> None:
        """Fold norms, and the linear map (C, C_before) that the input has yet to go through."""
        (query, query_bias, _), *self.more_query = map(fold_norm, layer.query)
        (key, key_bias, _), *self.more_key = map(fold_norm, layer.key)
        value = layer.value.weight.flatten(1)
        output, self.output_bias, _ = fold_norm(layer.output)
        self.output, self.activation = output.flatten(1), layer.output.activation
        self.width = len(query)
        # All that read the same rows: one product.
        weights, biases = [query.flatten(1), key.flatten(1)], [query_bias, key_bias]
        if before is not None:
            # The mean of values is the value of a mean: delta comes after the attention, in rho.
            self.output = self.output @ (value @ before)
        else:
            weights.append(value)
            biases.append(query_bias.new_zeros(len(value)))
        self.weight, self.bias = torch.cat(weights), torch.cat(biases)
        if before is not None:
            self.weight = self.weight @ before

    def take_linear_output(self) -> Tensor | None:
        """Return rho's weight, not to be applied here any more; None if it is not linear."""
        if self.activation is not None:
            return None
        output, self.output = self.output, None
        return output

    def attend(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Apply everything to groups (G, L, C), some at a time."""
        groups = max(1, TILE // tokens.shape[1])
        tiles = tokens.split(groups)
        masks = [None] * len(tiles) if mask is None else mask.split(groups)
        return torch.cat([self._attend(*tile) for tile in zip(tiles, masks, strict=True)])

    def _attend(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        given = tokens.flatten(0, 1)
        rows = F.linear(given, self.weight, self.bias)
        rows[:, : 2 * self.width].relu_()
        query, key = rows[:, : self.width], rows[:, self.width : 2 * self.width]
        value = rows[:, 2 * self.width :] if rows.shape[1] > 2 * self.width else given
        for weight, bias, _ in self.more_query:
            query = F.linear(query, weight.flatten(1), bias).relu_()
        if mask is not None:
            query = query.masked_fill(mask.flatten().unsqueeze(1), 0.0)
        for weight, bias, _ in self.more_key:
            key = F.linear(key, weight.flatten(1), bias).relu_()
        shape = (len(tokens), -1)
        context = attention(*(part.unflatten(0, shape) for part in (query, key, value)), mask)
        if self.output is not None:
            context = F.linear(context, self.output, self.output_bias)
        return context if self.activation is None else self.activation(context)


def _folds(layer: nn.Module) -> bool:
    """Say whether no norm of a layer depends on the input in evaluation mode."""
    convs = (module for module in layer.modules() if isinstance(module, Conv2d))
    return all(fold_norm(conv)[2] is None for conv in convs)
