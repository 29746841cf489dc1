"""Arrays from a pickle that nobody vouches for: numpy arrays, numbers, texts, lists and dicts, nothing else.

Python's own unpickler calls what a pickle names. Here the few names that numpy writes lead to stand-ins of this file,
every other name is refused, and arrays are made from their bytes: no code of numpy or of anybody reads the rest.
"""

import io
import pickle
from typing import Any

import numpy as np

MOST_READS = 1_000_000  # of a pickle's instructions and their values; a batch of CIFAR-10 has 75,000
_REFUSED = {  # instructions that call, or look up, by other ways than `find_class`
    *(pickle.INST, pickle.OBJ, pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.NEWOBJ, pickle.NEWOBJ_EX),
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),  # no array needs a set
}


def read(content: bytes) -> Any:
    """What a pickle holds, with numpy arrays of booleans or numbers; ValueError for everything else.

    Texts of Python 2 are read as Latin-1. At the top is an array, or a list, tuple or dict of arrays, numbers, texts
    and lists of numbers and texts.
    """
    try:
        # the unpickler in C reserves memory for each place that a pickle numbers, whatever the number
        found = _Unpickler(_Counted(content), encoding="latin1", most=2 * len(content)).load()
    except Exception as error:  # the standard library documents no complete list
        raise ValueError(f"no pickle of numpy arrays: {type(error).__name__}: {error}") from error
    if isinstance(found, dict):
        return {key: _array(value) for key, value in found.items()}
    return [_array(value) for value in found] if isinstance(found, list | tuple) else _array(found)


def _array(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("no pickle of numpy arrays: an array has no content")
        return value.value
    plain = (bool, int, float, str, bytes)
    if isinstance(value, plain) or (isinstance(value, list) and all(isinstance(x, plain) for x in value)):
        return value
    raise ValueError(f"no pickle of numpy arrays: it holds a {type(value).__name__}")


class _Dtype:
    """Stands for numpy.dtype: a code such as "f8", and its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        dtype = np.dtype(code) if isinstance(code, str) and len(code) < 5 else None
        if dtype is None or dtype.kind not in "biuf":
            raise ValueError(
                f"arrays of numbers were expected, got one of {code if isinstance(code, str) else type(code).__name__}"
            )
        self.dtype = dtype

    def fill(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise ValueError("a plain dtype was expected")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for numpy.ndarray."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def fill(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        self.value = _from_bytes(content, dtype, shape, "F" if fortran else "C").value


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_bytes(content: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
    """numpy's `_frombuffer`: the bytes are the array, whatever shape is claimed."""
    made = _Array()
    if not isinstance(content, bytes) or not isinstance(dtype, _Dtype) or -1 in shape:
        raise ValueError("bytes, a dtype and a shape were expected")
    made.value = np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
    return made


def _encode(text: Any, _: Any = "latin1") -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes for Python 2


def _nothing() -> bytes:
    return b""  # how Python 3 writes no bytes for Python 2


_NAMES = {
    ("__builtin__", "bytes"): _nothing,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_bytes for core in ("core", "_core")},
}


_PYTHONS: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_PYTHONS):
    dispatch = {code: run for code, run in _PYTHONS.dispatch.items() if bytes([code]) not in _REFUSED}

    def __init__(self, *arguments: Any, most: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.left = most  # bytes that may be made, twice each: one text, named again and again, would fill any memory

    def _count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("it makes more bytes than it holds")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise ValueError(f"it names {module}.{name}")
        return _NAMES[module, name]

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        if not any(self.stack[-1] is made for made in (_Dtype, _reconstruct, _from_bytes, _encode, _nothing)):
            raise ValueError(f"it calls {type(self.stack[-1]).__name__}")
        self.stack[-1] = self.stack[-1](*arguments)
        self._count(len(self.stack[-1]) if isinstance(self.stack[-1], bytes) else 0)

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Array | _Dtype):
            raise ValueError(f"it fills {type(self.stack[-1]).__name__}")
        self.stack[-1].fill(state)
        if isinstance(self.stack[-1], _Array) and self.stack[-1].value is not None:
            self._count(self.stack[-1].value.nbytes)

    def load_setitem(self) -> None:
        self._keys(self.stack[-2:])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._keys(self.stack)
        super().load_setitems()

    def load_dict(self) -> None:
        self._keys(self.stack)
        super().load_dict()

    def _keys(self, items: list) -> None:
        if any(type(key) not in (str, bytes, int) for key in items[::2]):  # tuples of tuples take forever to hash
            raise ValueError("keys are texts or numbers, found another one")

    def load_frame(self) -> None:
        self.read(8)  # frames only tell how much to read ahead

    def load_bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))  # the library's reserves what is claimed

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.FRAME[0]] = load_frame
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict


class _Counted(io.BytesIO):
    """Bytes that may be read so many times."""

    reads = 0

    def _count(self) -> None:
        self.reads += 1
        if self.reads > MOST_READS:
            raise ValueError(f"more than {MOST_READS:,} instructions")

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        self._count()
        return super().read(size)

    def readline(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        self._count()
        return super().readline(size)
