"""Heads of other projects and ours: one block, with what is before and behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from .conversion import Conversion, size_of
from .units import Layout, Unit, find_layout, find_prefix, read_unit, write_unit

__all__ = ["Head", "read_head", "write_head"]


@dataclass(frozen=True)
class Head:
    """One of our heads.

    Attributes:
        block: prefix of the block's names, such as "ocr.".
        anchor: a name that only this head has, and may have once.
        before: name of the convolution in front of the block.
        behind: name of the classifier behind it.
        reads: name, in the block, of a convolution that reads the pixels.
        fuse: name of the convolution that reads pixels and context.
        context_first: whether its input is the context and then the pixels.
        build: makes the block, given a function that returns the weight of one of its
            convolutions, and the block's names.
        describe: adds what to set and to know to a conversion, given a function that returns the
            weight of one of the head's convolutions, None where it is not there.
    """

    block: str
    anchor: str
    before: str
    behind: str
    reads: str
    fuse: str
    context_first: bool
    build: Callable[[Callable[[str], Tensor], set[str]], nn.Module]
    describe: Callable[[Conversion, Callable[[str], Tensor | None]], None]


def read_head(
    conversion: Conversion, head: Head, layouts: Sequence[Layout], own_prefix: str
) -> None:
    """Make a head of ours of a foreign file.

    Args:
        conversion: its result is filled.
        head: ours.
        layouts: names that the other project has for it, of which the file has one.
        own_prefix: what to put in front of our names.

    Raises:
        InputError: the file does not fit.
    """
    layout, prefix = find_layout(conversion, layouts)
    for unit in layout.units:
        kernel = conversion.get_kernel(f"{prefix}{unit.conv}.weight")
        swaps = unit.name == head.fuse and layout.context_first != head.context_first
        read_unit(
            conversion,
            unit,
            prefix,
            own_prefix,
            weight=_exchanged(conversion, kernel) if swaps else None,
            shift=_shift_by_values(conversion, layout, unit, prefix),
        )
    for unit in layout.around:
        if f"{prefix}{unit.conv}.weight" in conversion.weights:
            read_unit(conversion, unit, prefix, own_prefix)
        else:
            conversion.missing[f"{own_prefix}{unit.name}.*"] = "not in the file"
    _leave_the_rest(conversion, prefix, layout.block, layout.others)
    _check(conversion, head, own_prefix, conversion.output)
    head.describe(conversion, lambda name: conversion.output.get(f"{own_prefix}{name}.weight"))
    conversion.notes.extend(layout.notes)


def write_head(conversion: Conversion, head: Head, layouts: Sequence[Layout]) -> None:
    """Give a head of ours the names of another project.

    Args:
        conversion: its result is filled.
        head: ours.
        layouts: names of the other project; the first are written.

    Raises:
        InputError: the file is none of ours, or has what the other project has no place for.
    """
    layout = layouts[0]
    own_prefix = find_prefix(conversion, head.anchor)
    if own_prefix is None:
        conversion.refuse(f"it has no {head.anchor}")
    _check(conversion, head, own_prefix, conversion.weights)
    result, both = conversion.get_kernel(f"{own_prefix}{head.fuse}.weight").shape[:2]
    if both != 2 * result:
        conversion.refuse(
            f"{head.fuse} makes {result} channels of {both}, expected half of them: elsewhere "
            "pixels, context and result have one width"
        )
    for unit in layout.units:
        if f"{own_prefix}{unit.name}.weight" not in conversion.weights:
            conversion.refuse(f"it has no {unit.name}, expected the layers that others have")
        kernel = conversion.get_kernel(f"{own_prefix}{unit.name}.weight")
        swaps = unit.name == head.fuse and layout.context_first != head.context_first
        if unit.name in layout.wide and kernel.shape[0] != kernel.shape[1]:
            conversion.refuse(
                f"{unit.name} makes {kernel.shape[0]} channels of {kernel.shape[1]}, expected as "
                "many: elsewhere the values are as wide as the pixels"
            )
        weight = _exchanged(conversion, kernel) if swaps else None
        write_unit(conversion, unit, own_prefix, weight=weight)
    for unit in layout.around:
        if f"{own_prefix}{unit.name}.weight" in conversion.weights:
            write_unit(conversion, unit, own_prefix)
        else:
            conversion.missing[f"{unit.conv}.*"] = "not in the file"
    _leave_the_rest(conversion, own_prefix, head.block, {})
    conversion.missing.update(dict.fromkeys(layout.others, "no part of the head"))


def _exchanged(conversion: Conversion, kernel: Tensor) -> Tensor:
    """Return a fusion's weight for the context behind the pixels instead of in front, or back."""
    if kernel.shape[1] % 2:
        conversion.refuse(f"its fusion reads {kernel.shape[1]} channels, expected an even number")
    return torch.cat(kernel.chunk(2, dim=1)[::-1], dim=1)


def _shift_by_values(
    conversion: Conversion, layout: Layout, unit: Unit, prefix: str
) -> tuple[Tensor, str] | None:
    """Return what a bias of the values adds behind the output's convolution, and its name.

    A pixel's weights sum to 1, so it adds the same everywhere.
    """
    if not unit.name.endswith("output"):
        return None
    name = f"{unit.name.removesuffix('output')}value"
    values = next((value for value in layout.units if value.name == name), None)
    if values is None or values.norm or f"{prefix}{values.conv}.bias" not in conversion.weights:
        return None
    bias_name = f"{prefix}{values.conv}.bias"
    kernel = conversion.get_kernel(f"{prefix}{unit.conv}.weight")
    bias = conversion.get_numbers(bias_name)
    if bias.shape != kernel.shape[1:2]:
        conversion.refuse(f"{bias_name} and {prefix}{unit.conv}.weight differ in size")
    return kernel.double().flatten(1) @ bias.double(), bias_name


def _leave_the_rest(
    conversion: Conversion, prefix: str, block: str, others: Mapping[str, str]
) -> None:
    for name in conversion.rest():
        if name.startswith(f"{prefix}{block}"):
            conversion.refuse(f"{name} is nothing that such a block has")
        inner = name.removeprefix(prefix)
        reasons = (reason for pattern, reason in others.items() if fnmatchcase(inner, pattern))
        conversion.left_out[name] = next(reasons, "no part of the head")


def _check(
    conversion: Conversion, head: Head, own_prefix: str, tensors: Mapping[str, Tensor]
) -> None:
    """See that the head is one that ours can be, by building it."""
    prefix = f"{own_prefix}{head.block}"
    names = {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}

    def kernel(name: str) -> Tensor:
        weight = tensors.get(f"{prefix}{name}.weight")
        if weight is None or weight.dim() != 4 or not weight.numel():
            conversion.refuse(f"{prefix}{name}.weight is missing or no convolution's")
        return weight

    with torch.device("meta"):
        block = head.build(kernel, names)
        state = {f"{prefix}{name}": like for name, like in block.state_dict().items()}
        for name, make in (
            (head.before, lambda of: _transform(of.shape[1], kernel(head.reads).shape[1])),
            (head.behind, lambda of: Conv2d(block.out_channels, len(of), 1)),
        ):
            name = f"{own_prefix}{name}"
            if f"{name}.weight" not in tensors:
                continue
            weight = tensors[f"{name}.weight"]
            if weight.dim() != 4 or not weight.numel():
                conversion.refuse(f"{name}.weight is {size_of(weight)}, expected a convolution's")
            state.update(
                {f"{name}.{part}": like for part, like in make(weight).state_dict().items()}
            )
    conversion.require(tensors, state)


def _transform(in_channels: int, out_channels: int) -> nn.Module:
    """Return the 3x3 convolution with a norm that is in front of a block."""
    norm = get_norm("BN", out_channels)
    return Conv2d(in_channels, out_channels, 3, bias=False, norm=norm)
