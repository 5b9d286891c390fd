"""What the context blocks of a model look at from a pixel of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ocr_panoptic.errors import InputError
from ocr_panoptic.layers import (
    ASPOC,
    InterlacedSparseSelfAttention,
    NonLocal,
    PyramidOC,
    RegionContext,
    SelfAttention,
)

from .capture import padded_size, recorded_arguments, without_padding

__all__ = [
    "PixelRelations",
    "RelationMap",
    "context_blocks",
    "look",
    "pixel_cell",
    "relations_of_pixels",
]

Cell = tuple[int, int]
"""(row, column) in the map of a block, padding included."""

_KINDS = {
    InterlacedSparseSelfAttention: "interlaced sparse self-attention",
    NonLocal: "non-local",
    SelfAttention: "self-attention",
    RegionContext: "OCR",
}


# The context layers inside do not look at the map that these are called with.
_OTHER_MAPS = (ASPOC, PyramidOC)


class RelationMap(NamedTuple):
    """The weights that a pixel gives to the cells of a map.

    Attributes:
        title: what they are, such as "local relation".
        weights: (h, w) float32, not negative, with sum 1 over the whole map and its padding.
        spacing: (rows, columns) from a cell that the pixel can look at to the next.
    """

    title: str
    weights: Tensor
    spacing: tuple[int, int] = (1, 1)


class PixelRelations(NamedTuple):
    """What a context block looks at from one pixel of an image.

    Attributes:
        pixel: (x, y) in the original image, x to the right and y down.
        block: the block's name in the model, such as ``sem_seg_head.ocr``.
        kind: what it is, such as "non-local".
        cell: (row, column) of the block's map that the pixel lies in.
        extent: (rows, columns) of cells that the image covers, with their fractions.
        maps: on the CPU, cut to the cells that the image covers, in part or whole: h and w are
            ``extent``, rounded up. Where padding is not masked, the rest to sum 1 lies on it.
        regions: (K,) float32 on the CPU, the weights of an OCR block's regions, with sum 1; None
            for the other blocks, which have maps.
    """

    pixel: tuple[int, int]
    block: str
    kind: str
    cell: Cell
    extent: tuple[float, float]
    maps: Sequence[RelationMap]
    regions: Tensor | None


def context_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the context layers in a model by name; layers inside another are a part of it.

    Those that look at parts of the map, or at a smaller one, are not among them.
    """
    blocks: dict[str, nn.Module] = {}
    seen: list[str] = []
    for name, layer in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in seen):
            continue
        if isinstance(layer, tuple(_KINDS)):
            blocks[name] = layer
        if name in blocks or isinstance(layer, _OTHER_MAPS):
            seen.append(name)
    return blocks


@torch.no_grad()
def relations_of_pixels(
    model: nn.Module, inputs: dict, pixels: Sequence[tuple[int, int]]
) -> list[PixelRelations]:
    """Predict one image, and see what the model's context blocks look at from some pixels.

    A dense relation is one row, or one product of a row with a sparse stage: the matrix of all
    pairs of positions is never there.

    Args:
        model: a Detectron2 model in evaluation mode.
        inputs: one image in the format of Detectron2's models: "image" (3, H, W), and "height" and
            "width" before it was resized.
        pixels: (x, y) in the image before it was resized, inside of it.

    Returns:
        One for each pixel and block, pixel by pixel; without the blocks that the model did not
        call.

    Raises:
        InputError: if the model has no context block, or relations are not finite, as with weights
            of a training that diverged.
    """
    blocks = context_blocks(model)
    if not blocks:
        raise InputError(
            "the model has no context block, expected MODEL.RESNETS.CONTEXT.NAME isa, non_local or "
            "self_attention, or MODEL.SEM_SEG_HEAD.NAME OCRSemSegFPNHead"
        )
    with recorded_arguments(blocks.values()) as calls:
        model([inputs])
    full = padded_size(model, inputs)
    per_block = [
        list(_relations_of_block(name, calls[layer], layer, model, inputs, full, pixels))
        for name, layer in blocks.items()
        if layer in calls
    ]
    return [relations for of_pixel in zip(*per_block, strict=True) for relations in of_pixel]


def _relations_of_block(
    name: str,
    arguments: Mapping[str, Tensor | None],
    layer: nn.Module,
    model: nn.Module,
    inputs: dict,
    full: tuple[int, int],
    pixels: Sequence[tuple[int, int]],
) -> Iterator[PixelRelations]:
    size, resized = (inputs["height"], inputs["width"]), tuple(inputs["image"].shape[-2:])
    cells = tuple(arguments["feats"].shape[-2:])
    positions = [pixel_cell(pixel, size, resized, full, cells) for pixel in pixels]
    extent = tuple(side * n / whole for side, n, whole in zip(resized, cells, full, strict=True))
    kind = next(kind for type_, kind in _KINDS.items() if isinstance(layer, type_))
    found = look(layer, arguments, positions)
    for pixel, cell, (maps, regions) in zip(pixels, positions, found, strict=True):
        weights = [part.weights for part in maps] if regions is None else [regions]
        if not all(part.isfinite().all() for part in weights):
            raise InputError(
                f"{name}: its relations are not finite, expected weights of a model that did not "
                "diverge"
            )
        cut = [
            part._replace(weights=without_padding(part.weights, model, inputs).cpu())
            for part in maps
        ]
        regions = None if regions is None else regions.cpu()
        yield PixelRelations(pixel, name, kind, cell, extent, cut, regions)


@torch.no_grad()
def look(
    layer: nn.Module, arguments: Mapping[str, Tensor | None], cells: Sequence[Cell]
) -> Iterator[tuple[list[RelationMap], Tensor | None]]:
    """Yield what a context layer looks at from each of some cells.

    Args:
        layer: one of :func:`context_blocks`, in evaluation mode.
        arguments: of its ``forward``, by name: "feats" (1, C, H, W), "padding_mask" (1, H, W) or
            None or not there, of an OCR layer also "region_logits" (1, K, H, W).
        cells: that look.

    Yields:
        Maps (H, W) and regions, in the order of the cells. Of an OCR layer no map but its
        pixel-region relation, (K,) float32, eq. 5 of the Segmentation Transformer paper. Of others
        no regions but the dense relation, eq. 10 of the OCNet paper; of interlaced sparse
        self-attention the global and the local relation, and the dense relation of eq. 9 that they
        make together, or the one stage that it has.
    """
    if isinstance(layer, RegionContext):
        _, relations = layer.regions_and_relations(**arguments)
        for row, column in cells:
            yield [], relations[0, :, row, column].float()
        return
    feats, mask = arguments["feats"], arguments.get("padding_mask")
    for cell in cells:
        relation = layer.relation(feats, cell, mask)
        if isinstance(layer, InterlacedSparseSelfAttention):
            maps = [
                RelationMap("global relation", relation.global_, layer.partitions),
                RelationMap("local relation", relation.local),
            ]
            maps = [part for part in maps if part.weights is not None]
            if len(maps) == 2:
                # Of one stage alone, the dense relation is that stage's.
                maps.append(RelationMap("dense relation (eq. 9)", relation.dense))
        else:
            maps = [RelationMap("dense relation", relation)]
        yield [part._replace(weights=part.weights[0].float()) for part in maps], None


def pixel_cell(
    pixel: tuple[int, int],
    size: tuple[int, int],
    resized: tuple[int, int],
    padded: tuple[int, int],
    cells: tuple[int, int],
) -> Cell:
    """Return the cell of a map that the centre of a pixel lies in.

    Args:
        pixel: (x, y) in the original image.
        size: (height, width) of the original image.
        resized: (height, width) of the image that the model gets.
        padded: (height, width) of that image with its padding.
        cells: (rows, columns) of the map, padding included.
    """
    row, column = (
        # The centre is at (i + 1/2) / size of the image: in integers, without rounding.
        (2 * i + 1) * to * n // (2 * of * full)
        for i, of, to, full, n in zip(pixel[::-1], size, resized, padded, cells, strict=True)
    )
    return row, column
