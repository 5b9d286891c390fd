"""Convolutions and the norms behind them, under their names here and in other projects.

A convolution's bias in front of a BatchNorm is the same as a BatchNorm that subtracts less: the
norms here are alone, so such a bias is taken off the running mean. In training, a batch's own mean
takes it out anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .conversion import COUNTER, Conversion

__all__ = ["Layout", "Unit", "find_layout", "find_prefix", "read_unit", "write_unit"]

_NORM = ("weight", "bias", "running_mean", "running_var")
# InPlaceABN's, and BatchNorm's default.
_EPS = 1e-5
_LEAKY = (
    "its norms are InPlaceABN, with a leaky ReLU of slope 0.01 where the layers here have a ReLU"
)


class Unit(NamedTuple):
    """A convolution, and what is behind it.

    Attributes:
        name: here. Its norm, if it has one, is ``<name>.norm``.
        conv: elsewhere.
        norm: elsewhere; "" where there is none, here and there. Where it ends with ".0", what it
            is the first of may be an InPlaceABN itself.
        bias: whether it has a bias here, where it has no norm.
        foreign_bias: whether it has a bias elsewhere; read where it is there, written where it
            should be.
    """

    name: str
    conv: str
    norm: str = ""
    bias: bool = False
    foreign_bias: bool = False


@dataclass(frozen=True)
class Layout:
    """The names that one project has for a head.

    Attributes:
        units: of the block itself, which must all be there.
        around: units before and after it, which a file may be without.
        block: prefix of the block's names: there, nothing may be left over.
        context_first: whether the fusion's input is the context and then the pixels.
        others: other parts of the model, as patterns, with the reason why they are left out.
        notes: what to know of the project's models.
        wide: names of units whose result is as wide as what they read.
    """

    units: Sequence[Unit]
    around: Sequence[Unit]
    block: str
    context_first: bool
    others: Mapping[str, str]
    notes: Sequence[str] = ()
    wide: Sequence[str] = ()

    @property
    def anchor(self) -> str:
        """Name of a tensor that only this layout has."""
        return f"{self.units[0].conv}.weight"


def find_prefix(conversion: Conversion, anchor: str) -> str | None:
    """Return what stands in front of the one name that ends with ``anchor``; None without one.

    Raises:
        InputError: there are several.
    """
    found = [
        name.removesuffix(anchor)
        for name in conversion.weights
        if name == anchor or name.endswith(f".{anchor}")
    ]
    if len(found) > 1:
        conversion.refuse(f"it holds {len(found)} names that end with {anchor}, expected one")
    return found[0] if found else None


def find_layout(conversion: Conversion, layouts: Sequence[Layout]) -> tuple[Layout, str]:
    """Return the layout that a file has, and what stands in front of its names.

    Of several it is the one that has most of what is around the block, and the first of those.

    Raises:
        InputError: it has none of them.
    """
    best: tuple[int, Layout, str] | None = None
    for layout in layouts:
        prefix = find_prefix(conversion, layout.anchor)
        if prefix is None:
            continue
        there = sum(f"{prefix}{unit.conv}.weight" in conversion.weights for unit in layout.around)
        if best is None or there > best[0]:
            best = there, layout, prefix
    if best is None:
        conversion.refuse(f"it has no {layouts[0].anchor}")
    return best[1:]


def read_unit(
    conversion: Conversion,
    unit: Unit,
    prefix: str,
    own_prefix: str,
    *,
    weight: Tensor | None = None,
    shift: tuple[Tensor, str] | None = None,
) -> None:
    """Take a unit from a foreign file.

    Args:
        conversion: its result is added to.
        unit: the unit.
        prefix: what stands in front of its foreign names.
        own_prefix: what stands in front of its names here.
        weight: the convolution's weight where it is not to be taken as it is.
        shift: another bias that the norm is to take up, with the name it comes from.
    """
    conv, own = f"{prefix}{unit.conv}", f"{own_prefix}{unit.name}"
    if weight is None:
        conversion.rename(f"{conv}.weight", f"{own}.weight")
    else:
        how = "columns of pixels and of the context exchanged"
        conversion.put(f"{own}.weight", weight, (f"{conv}.weight",), how)
    biases = [shift] if shift else []
    if f"{conv}.bias" in conversion.weights:
        biases.append((conversion.get_numbers(f"{conv}.bias"), f"{conv}.bias"))
    if unit.norm:
        _read_norm(conversion, f"{prefix}{unit.norm}", f"{own}.norm", biases)
    elif unit.bias:
        if biases:
            conversion.rename(f"{conv}.bias", f"{own}.bias")
        else:
            kernel = conversion.get_kernel(f"{conv}.weight")
            zeros = kernel.new_zeros(len(kernel))
            conversion.put(f"{own}.bias", zeros, how="zero: the file has none")


def _read_norm(
    conversion: Conversion, norm: str, own: str, biases: Sequence[tuple[Tensor, str]]
) -> None:
    """Take a BatchNorm; it takes up biases, each given with its name."""
    weights = conversion.weights
    # A BatchNorm and its ReLU are two modules in a row, InPlaceABN is both in one.
    alone = norm.removesuffix(".0")
    is_inplace = f"{norm}.weight" not in weights and f"{alone}.weight" in weights
    if is_inplace:
        norm = alone
        conversion.warn_inexact(_LEAKY)
    if f"{norm}.running_mean" not in weights:
        for name in (norm, f"{norm.removesuffix('.bn')}.gn"):
            if f"{name}.weight" in weights:
                conversion.refuse(f"{name} has no running_mean, expected a BatchNorm")
    for part in _NORM:
        source, target = f"{norm}.{part}", f"{own}.{part}"
        if part == "weight" and is_inplace:
            weight = conversion.get_numbers(source).abs() + _EPS
            conversion.put(target, weight, (source,), "|weight| + 1e-5, as InPlaceABN takes it")
        elif part == "running_mean" and biases:
            given = conversion.get_numbers(source)
            mean = given.double()
            for bias, bias_name in biases:
                if bias.shape != mean.shape:
                    conversion.refuse(f"{bias_name} and {source} differ in size")
                mean = mean - bias.double()
            sources = (source, *(bias_name for _, bias_name in biases))
            conversion.put(target, mean.to(given.dtype), sources, "less the bias in front of it")
        else:
            conversion.rename(source, target)
    if f"{norm}.{COUNTER}" in weights:
        conversion.rename(f"{norm}.{COUNTER}", f"{own}.{COUNTER}")


def write_unit(
    conversion: Conversion, unit: Unit, own_prefix: str, *, weight: Tensor | None = None
) -> None:
    """Give a unit of ours its foreign names; arguments as of :func:`read_unit`."""
    own = f"{own_prefix}{unit.name}"
    source = f"{own}.weight"
    if weight is None:
        conversion.rename(source, f"{unit.conv}.weight")
    else:
        how = "columns of pixels and of the context exchanged"
        conversion.put(f"{unit.conv}.weight", weight, (source,), how)
    if unit.bias:
        conversion.rename(f"{own}.bias", f"{unit.conv}.bias")
    elif unit.foreign_bias:
        kernel = conversion.get_kernel(source)
        zeros = kernel.new_zeros(len(kernel))
        conversion.put(f"{unit.conv}.bias", zeros, how="zero: there is none here")
    if not unit.norm:
        return
    for part in _NORM:
        if f"{own}.norm.{part}" not in conversion.weights:
            conversion.refuse(f"{own}.norm.{part} is missing, expected a BatchNorm behind {own}")
        conversion.rename(f"{own}.norm.{part}", f"{unit.norm}.{part}")
    if f"{own}.norm.{COUNTER}" in conversion.weights:
        conversion.rename(f"{own}.norm.{COUNTER}", f"{unit.norm}.{COUNTER}")
