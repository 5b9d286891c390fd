"""An unpickler for files of others: it makes tensors, arrays and containers, and nothing else.

Why not torch's ``weights_only``: up to torch 2.5 a file gets around it (CVE-2025-32434), up to 2.9
it can be made to write where it must not (CVE-2026-24747), and it refuses the numpy arrays of
Detectron2's model zoo. This one is used with every version of torch.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import NoReturn

import numpy as np

from .safe_globals import (
    GLOBALS,
    ArrayDtype,
    Constructor,
    NotTrustedError,
    require_keys,
    set_array,
    set_versions,
)

__all__ = ["SafeUnpickler", "unpickle"]

# Of a name or a type in a message.
_MOST_LETTERS = 80

# What makes plain values, containers and references to them; the pure Python unpickler's own way
# of reading them is as good here. What calls, names or changes something is defined below.
_HARMLESS = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
    *(pickle.DUP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1),
    *(pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT),
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
    *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
    *(pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.LIST, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET),
    *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.PUT, pickle.BINPUT),
    *(pickle.LONG_BINPUT, pickle.MEMOIZE),
)
# They find a name in find_class, or a storage in persistent_load.
_NAMING = (pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID)


class _Opcodes(dict):
    """Opcode -> method; another one is told by name."""

    def __missing__(self, code: int) -> NoReturn:
        known = pickle._Unpickler.dispatch.get(code)
        if known is None:
            raise pickle.UnpicklingError(f"unknown opcode {bytes([code])}")
        name = known.__name__.removeprefix("load_").upper()
        raise NotTrustedError(f"its pickle uses the opcode {name}")


class SafeUnpickler(pickle._Unpickler):
    """Python's own unpickler, cut down to what weights need.

    The one in Python, not that in C: only there can calling and changing objects be checked. The
    large parts of a checkpoint are single strings or lie outside the pickle, so it is fast enough.
    """

    dispatch = _Opcodes({code[0]: pickle._Unpickler.dispatch[code[0]] for code in _HARMLESS})
    dispatch.update({code[0]: pickle._Unpickler.dispatch[code[0]] for code in _NAMING})

    def find_class(self, module: str, name: str) -> object:
        """Return what a name stands for.

        Raises:
            NotTrustedError: it is not one of the few that weights need.
        """
        try:
            return GLOBALS[module, name]
        except KeyError:
            raise NotTrustedError(
                f"its pickle names {module[:_MOST_LETTERS]}.{name[:_MOST_LETTERS]}"
            ) from None

    def load_inst(self) -> None:
        """Refuse to make an instance as Python 2 did, but name the class."""
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.find_class(module, name)
        raise NotTrustedError("its pickle uses the opcode INST")

    dispatch[pickle.INST[0]] = load_inst

    def load_reduce(self) -> None:
        """Call what :meth:`find_class` gave, and nothing else."""
        arguments = self.stack.pop()
        called = self.stack[-1]
        if type(called) is not Constructor or type(arguments) is not tuple:
            raise NotTrustedError(f"its pickle calls a value of type {_name(called)}")
        self.stack[-1] = called.function(*arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        """Give an array its content, a dtype its byte order, an OrderedDict torch's versions."""
        state = self.stack.pop()
        built = self.stack[-1]
        if type(built) is np.ndarray:
            set_array(built, state)
        elif type(built) is ArrayDtype:
            built.set_state(state)
        elif type(built) is OrderedDict:
            set_versions(built, state)
        else:
            raise NotTrustedError(f"its pickle sets the state of a value of type {_name(built)}")

    dispatch[pickle.BUILD[0]] = load_build

    def load_append(self) -> None:
        """Append a value to a list."""
        value = self.stack.pop()
        self._top(list).append(value)

    dispatch[pickle.APPEND[0]] = load_append

    def load_appends(self) -> None:
        """Append values to a list."""
        values = self.pop_mark()
        self._top(list).extend(values)

    dispatch[pickle.APPENDS[0]] = load_appends

    def load_setitem(self) -> None:
        """Put a value into a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        """Put values into a dict."""
        self._fill(self.pop_mark())

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        """Make a dict of keys and values, as protocol 0 does."""
        items = self.pop_mark()
        self.append({})
        self._fill(items)

    dispatch[pickle.DICT[0]] = load_dict

    def load_additems(self) -> None:
        """Put values into a set."""
        values = self.pop_mark()
        require_keys(values)
        self._top(set).update(values)

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        """Make a frozenset."""
        values = self.pop_mark()
        require_keys(values)
        self.append(frozenset(values))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_bytearray8(self) -> None:
        """Read a bytearray; not Python's own way, which takes the memory before it reads."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def _top(self, *kinds: type) -> list | dict | set:
        top = self.stack[-1]
        if type(top) not in kinds:
            raise NotTrustedError(f"its pickle changes a value of type {_name(top)}")
        return top

    def _fill(self, items: list) -> None:
        keys, values = items[::2], items[1::2]
        require_keys(keys)
        self._top(dict, OrderedDict).update(zip(keys, values, strict=True))


def unpickle(
    content: bytes, encoding: str, find_storage: Callable[[object], object] | None = None
) -> object:
    """Return what a pickle holds, if it is made of tensors, arrays and plain containers.

    Args:
        content: the pickle; what follows it is ignored.
        encoding: of strings of Python 2.
        find_storage: from a torch checkpoint's reference to a storage to that storage; None where
            there are none.

    Raises:
        NotTrustedError: it names or does something else; says what.
        Exception: of any type, for what is damaged or no pickle.
    """
    unpickler = SafeUnpickler(io.BytesIO(content), encoding=encoding)
    if find_storage:
        unpickler.persistent_load = find_storage
    return unpickler.load()


def _name(value: object) -> str:
    return type(value).__name__[:_MOST_LETTERS]
