"""One conversion: where each tensor goes, how it is changed, and what stays behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from ocr_panoptic.errors import InputError

__all__ = ["COUNTER", "Conversion", "Move", "size_of"]

COUNTER = "num_batches_tracked"
"""Of a BatchNorm: no weight; frozen ones, and old files, are without it."""


class Move(NamedTuple):
    """What became of tensors.

    Attributes:
        target: name in the result.
        sources: names in the file that it is made of; none for a constant.
        how: what was done to the values; "" for nothing.
    """

    target: str
    sources: tuple[str, ...]
    how: str


@dataclass
class Conversion:
    """The weights of a file on their way to another format.

    Attributes:
        path: the file, for errors.
        weights: its names and tensors.
        allow_inexact: go on where the result does not compute the same.
        output: names and tensors of the result.
        moves: how each of them was made.
        left_out: names of the file that go nowhere, with the reason.
        missing: names, or patterns of names, that the target has and the file does not, with the
            reason.
        config: keys to set where the result is loaded.
        notes: what else to know.
        inexact: what the result computes differently.
    """

    path: str
    weights: Mapping[str, Tensor]
    allow_inexact: bool = False
    output: dict[str, Tensor] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    inexact: list[str] = field(default_factory=list)

    def put(self, target: str, tensor: Tensor, sources: Iterable[str] = (), how: str = "") -> None:
        """Add a tensor to the result, as a copy of its own."""
        sources = tuple(sources)
        if target in self.output:
            self.refuse(f"{' and '.join(sources)} would be a second {target}")
        self.output[target] = tensor.detach().clone(memory_format=torch.contiguous_format)
        self.moves.append(Move(target, sources, how))

    def rename(self, source: str, target: str) -> None:
        """Add a tensor of the file as it is."""
        self.put(target, self.get(source), (source,))

    def get(self, name: str) -> Tensor:
        """Return a tensor of the file.

        Raises:
            InputError: it is not there.
        """
        if name not in self.weights:
            self.refuse(f"{name} is missing")
        return self.weights[name]

    def get_numbers(self, name: str) -> Tensor:
        """Return a tensor of the file that is to be computed with.

        Raises:
            InputError: it is not there, or no floating point numbers.
        """
        tensor = self.get(name)
        if not tensor.is_floating_point():
            self.refuse(f"{name} is of {tensor.dtype}, expected floating point numbers")
        return tensor

    def get_kernel(self, name: str) -> Tensor:
        """Return a convolution's weight, (C_out, C_in, height, width).

        Raises:
            InputError: it is not there, or no such thing.
        """
        weight = self.get_numbers(name)
        if weight.dim() != 4 or not weight.numel():
            self.refuse(f"{name} is {size_of(weight)}, expected the four sizes of a convolution")
        return weight

    def rest(self) -> list[str]:
        """Return the names of the file that nothing was made of, and that were not left out."""
        used = {source for move in self.moves for source in move.sources}
        return [name for name in self.weights if name not in used and name not in self.left_out]

    def warn_inexact(self, difference: str) -> None:
        """Tell that the result computes something else.

        Raises:
            InputError: unless that is allowed.
        """
        if not self.allow_inexact:
            raise InputError(
                f"{self.path}: {difference}; expected weights that can be converted exactly, or "
                "--allow-inexact to start a training from them"
            )
        if difference not in self.inexact:
            self.inexact.append(difference)

    def require(self, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """See that tensors are those of a module, by name and shape.

        Args:
            tensors: of the result, or of the file.
            expected: state of the module, with the same names; may be on the meta device.

        Raises:
            InputError: one is missing, has another shape, or is no floating point number.
        """
        sources = {move.target: move.sources for move in self.moves}
        for name, like in expected.items():
            if name not in tensors:
                if name.endswith(COUNTER):
                    continue
                self.refuse(f"{name} is missing")
            known_as = (sources.get(name) or (name,))[0]
            tensor = tensors[name]
            if tensor.shape != like.shape:
                self.refuse(f"{known_as} is {size_of(tensor)}, expected {size_of(like)}")
            if not tensor.is_floating_point() and not name.endswith(COUNTER):
                self.refuse(f"{known_as} is of {tensor.dtype}, expected floating point numbers")

    def refuse(self, reason: str) -> NoReturn:
        """Say that the file does not fit the format it was said to have.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.path} does not fit: {reason}")


def size_of(tensor: Tensor) -> str:
    """Return a shape as people write it."""
    return "x".join(map(str, tensor.shape)) or "a single number"
