"""What the pickle of a checkpoint may name, and what is made of it.

A pickle is a program that calls what it names. Here a name stands for a function of this module,
which checks its arguments, never for the object itself: no class and no function of Python, torch
or numpy comes into the hands of a pickle.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ocr_panoptic.errors import InputError

__all__ = [
    "GLOBALS",
    "ArrayDtype",
    "Constructor",
    "NotTrustedError",
    "Storage",
    "StorageType",
    "require_keys",
    "set_array",
    "set_versions",
]

# Of numbers and of text; not "O", objects, nor "V", structures.
_DTYPE = re.compile(r"[<>=|]?([?]|[biufcSU]\d{1,6})")
_LATIN_1 = ("latin1", "latin-1")
_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}


class NotTrustedError(InputError):
    """A file asks for something that weights do not need, and that could do anything."""


@dataclass(frozen=True)
class Constructor:
    """What a pickle may call."""

    function: Callable


@dataclass(frozen=True)
class StorageType:
    """What the name of a torch storage class stands for."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """The bytes of tensors, and the dtype under which a pickle refers to them."""

    content: torch.UntypedStorage
    dtype: torch.dtype


@dataclass
class ArrayDtype:
    """A numpy dtype that a pickle makes in two steps: its kind, then its byte order."""

    dtype: np.dtype

    def set_state(self, state: object) -> None:
        """Take the byte order of a pickled dtype's state.

        Raises:
            ValueError: it says more than that.
        """
        _require(isinstance(state, tuple) and len(state) in (8, 9), "state of a dtype")
        _, order, subarray, names, fields, itemsize, *_ = state
        plain = subarray is names is fields is None
        _require(plain and order in ("<", ">", "|", "="), "state of a dtype")
        _require(itemsize in (-1, self.dtype.itemsize), "size of a dtype")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


def set_array(array: np.ndarray, state: object) -> None:
    """Fill an array with its pickled state: a version, shape, dtype, order and bytes.

    Raises:
        ValueError: they do not belong together.
    """
    _require(isinstance(state, tuple) and len(state) == 5, "state of an array")
    _, shape, dtype, fortran, data = state
    values = _values(data, dtype)
    _require_shape(shape, values.size)
    array.__setstate__((1, shape, values.dtype, bool(fortran), values.tobytes()))


def set_versions(weights: OrderedDict, state: object) -> None:
    """Give weights the versions of the modules they are of, as ``state_dict`` does.

    Raises:
        NotTrustedError: the state says something else.
    """
    versions = state.get("_metadata") if type(state) is dict and len(state) == 1 else None
    if not isinstance(versions, dict) or not all(
        isinstance(name, str)
        and isinstance(version, dict)
        and type(version.get("version", 1)) in (int, type(None))
        for name, version in versions.items()
    ):
        raise NotTrustedError("its pickle sets the state of a value of type OrderedDict")
    weights._metadata = versions


def require_keys(keys: Iterable[object]) -> None:
    """See that what a dict or a set holds can be hashed at once.

    Raises:
        ValueError: not so, as with tuples in tuples in tuples.
    """
    for key in keys:
        parts = key if type(key) is tuple else (key,)
        fine = all(isinstance(part, Hashable) and not isinstance(part, tuple) for part in parts)
        _require(fine, "key of a dict")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"damaged: {what}")


def _are_sizes(numbers: object) -> bool:
    return isinstance(numbers, tuple) and all(type(n) is int and n >= 0 for n in numbers)


def _require_shape(shape: object, size: int) -> None:
    _require(_are_sizes(shape) and math.prod(shape) == size, "shape of an array")


def _values(data: object, dtype: object) -> np.ndarray:
    """Return an array (N,) of N values, in the byte order of this machine; it may be read-only."""
    if type(data) is str:  # bytes of Python 2
        data = data.encode("latin1")
    _require(isinstance(dtype, ArrayDtype), "dtype of an array")
    _require(type(data) in (bytes, bytearray), "data of an array")
    native = dtype.dtype.newbyteorder("=")
    if not data:
        return np.empty(0, native)
    return np.frombuffer(data, dtype.dtype).astype(native, copy=False)


def _dtype(name: str, align: int = 0, copy: int = 1) -> ArrayDtype:
    _require(isinstance(name, str), "dtype of an array")
    if not _DTYPE.fullmatch(name):
        raise NotTrustedError(f"it holds a numpy array of dtype {name[:40]}")
    return ArrayDtype(np.dtype(name))


def _empty_array(kind: object, shape: object, code: object) -> np.ndarray:
    return np.empty(0, np.int8)


def _array_of_buffer(data: object, dtype: object, shape: object, order: object) -> np.ndarray:
    values = _values(data, dtype)
    _require_shape(shape, values.size)
    _require(order in ("C", "F"), "order of an array")
    return values.reshape(shape, order=order).copy(order)


def _scalar(dtype: object, data: object) -> np.generic:
    values = _values(data, dtype)
    _require(values.size == 1, "numpy scalar")
    return values[0]


def _tensor(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    dtype: torch.dtype | None = None,
    metadata: object = None,
) -> Tensor:
    """Return a view of a storage, as torch's ``_rebuild_tensor_v3``; it never grows the storage."""
    _require(isinstance(storage, Storage) and type(offset) is int, "storage of a tensor")
    _require(offset >= 0 and _are_sizes(size) and _are_sizes(stride), "shape of a tensor")
    _require(len(size) == len(stride), "shape of a tensor")
    if hooks or metadata:
        raise NotTrustedError("it holds a tensor with hooks or marks")
    dtype = dtype or storage.dtype
    _require(isinstance(dtype, torch.dtype), "dtype of a tensor")
    elements, room = math.prod(size), storage.content.nbytes() // dtype.itemsize
    steps = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if elements:
        _require(offset + steps < room, "a tensor is larger than its storage")
    if elements > room:
        raise NotTrustedError("it holds a tensor that repeats its values, larger than the file")
    tensor = torch.empty(0, dtype=dtype).set_(storage.content, offset, size, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def _tensor_v2(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> Tensor:
    return _tensor(storage, offset, size, stride, requires_grad, hooks, None, metadata)


def _parameter(data: object, requires_grad: object, hooks: object) -> torch.nn.Parameter:
    _require(isinstance(data, Tensor), "parameter")
    if hooks:
        raise NotTrustedError("it holds a parameter with hooks")
    return torch.nn.Parameter(data.detach(), bool(requires_grad))


def _ordered_dict(pairs: object = ()) -> OrderedDict:
    _require(type(pairs) in (list, tuple), "OrderedDict")
    _require(all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs), "OrderedDict")
    require_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _counter(counts: object = None) -> Counter:
    _require(counts is None or type(counts) is dict, "Counter")
    return Counter(counts)


def _set(items: object = ()) -> set:
    _require(type(items) in (list, tuple), "set")
    require_keys(items)
    return set(items)


def _frozenset(items: object = ()) -> frozenset:
    return frozenset(_set(items))


def _encode(text: object, encoding: object) -> bytes:
    """Return bytes as pickles before protocol 3 write them."""
    _require(type(text) is str and encoding in _LATIN_1, "bytes")
    return text.encode("latin1")


def _bytes(data: object = b"") -> bytes:
    _require(type(data) is bytes, "bytes")
    return data


def _bytearray(data: object = b"", encoding: object = "latin1") -> bytearray:
    return bytearray(data if type(data) is bytes else _encode(data, encoding))


def _complex(real: object, imaginary: object) -> complex:
    _require(type(real) is float and type(imaginary) is float, "complex number")
    return complex(real, imaginary)


def _layout(name: object) -> torch.layout:
    _require(name == "torch.strided", "layout")
    return torch.strided


def _globals() -> dict[tuple[str, str], object]:
    """Return (module, name) -> what it stands for."""
    found: dict[tuple[str, str], object] = {
        ("_codecs", "encode"): Constructor(_encode),
        ("collections", "Counter"): Constructor(_counter),
        ("collections", "OrderedDict"): Constructor(_ordered_dict),
        ("numpy", "dtype"): Constructor(_dtype),
        # The class, an argument of _reconstruct, which is of no use otherwise.
        ("numpy", "ndarray"): None,
        ("torch", "Size"): Constructor(torch.Size),
        ("torch", "device"): Constructor(torch.device),
        ("torch._utils", "_rebuild_parameter"): Constructor(_parameter),
        ("torch._utils", "_rebuild_tensor"): Constructor(_tensor_v2),
        ("torch._utils", "_rebuild_tensor_v2"): Constructor(_tensor_v2),
        ("torch._utils", "_rebuild_tensor_v3"): Constructor(_tensor),
        ("torch.serialization", "_get_layout"): Constructor(_layout),
    }
    for core in ("numpy.core", "numpy._core"):  # before and from numpy 2
        found[f"{core}.multiarray", "_reconstruct"] = Constructor(_empty_array)
        found[f"{core}.multiarray", "scalar"] = Constructor(_scalar)
        found[f"{core}.numeric", "_frombuffer"] = Constructor(_array_of_buffer)
    for module in ("builtins", "__builtin__"):  # Python 3 and 2
        for function in (_bytearray, _bytes, _complex, _frozenset, _set):
            found[module, function.__name__[1:]] = Constructor(function)
    for module in ("torch", "torch.cuda", "torch.storage"):
        for name, dtype in _STORAGES.items():
            found[module, name] = StorageType(dtype)
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            found["torch", name] = value
    return found


GLOBALS = _globals()
"""(module, name) -> a Constructor, or a value without behaviour."""
