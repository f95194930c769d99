"""CIFAR-10 and CIFAR-100 as their makers publish them: pickled batches, read without running anything in them, and binary files."""

import io
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from distillery.errors import ConfigError, StoreError
from distillery.grammar import with_article
from distillery.storage import Store

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_TEN, FINE, COARSE = 10, 100, 20
"""Classes of CIFAR-10, and of CIFAR-100 by its fine and by its coarse labels."""
NAME_FILES = ("batches.meta", "meta", "batches.meta.txt", "fine_label_names.txt", "coarse_label_names.txt")
"""Files that may name the classes, beside the batches."""
_PYTHON = re.compile(r"^(?:data_batch_\d+|test_batch|train|test)$")
_BINARY = re.compile(r"^(?:data_batch_\d+|test_batch|train|test)\.bin$")


@dataclass(frozen=True)
class Batches:
    """What some batches hold together.

    Attributes:
        images: (N, 3, 32, 32) uint8.
        labels: (N,) by kind: `labels` of CIFAR-10, `fine` and `coarse` of CIFAR-100.
    """

    images: NDArray[np.uint8]
    labels: dict[str, NDArray[np.int64]]


def splits(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names of batches by split, `train` and `test`, in the order of their numbers; pickled ones rather than binary ones."""
    for pattern, mark in ((_PYTHON, ""), (_BINARY, ".bin")):
        batches = sorted((name for name in names if pattern.match(name)), key=lambda name: (len(name), name))
        if not mark and "meta" not in names:  # so short a name is CIFAR-100's only beside its own
            batches = [name for name in batches if name not in ("train", "test")]
        train = tuple(name for name in batches if name.startswith("data_batch_") or name == f"train{mark}")
        test = tuple(name for name in batches if name in (f"test_batch{mark}", f"test{mark}"))
        if train or test:
            return {split: found for split, found in (("train", train), ("test", test)) if found}
    return {}


def is_batch(name: str) -> bool:
    """Whether a file is called as CIFAR's batches are."""
    return bool(_PYTHON.match(name) or _BINARY.match(name))


def read_batches(store: Store, keys: Sequence[str]) -> Batches:
    """Batches one after the other.

    Raises:
        ConfigError: a pickle that asks for more than arrays: nothing in it is run.
        StoreError: a file that is damaged or no batch.
    """
    parts = [_read(store.read(key), f"{store.uri}/{key}") for key in keys]
    kinds = [set(part.labels) for part in parts]
    if any(kind != kinds[0] for kind in kinds):
        raise ConfigError(f"{store.uri!r} holds batches of both CIFAR-10 and CIFAR-100: keep each in a folder of its own.")
    labels = {kind: np.concatenate([part.labels[kind] for part in parts]) for kind in parts[0].labels}
    return Batches(np.concatenate([part.images for part in parts]), labels)


def read_class_names(store: Store, names: Sequence[str], folder: str) -> dict[str, list[str]]:
    """The data set's own class names by kind of label, from the file that lies beside its batches; empty without one."""
    prefix = f"{folder}/" if folder else ""
    if "batches.meta" in names or "meta" in names:
        key = prefix + ("batches.meta" if "batches.meta" in names else "meta")
        found = _unpickle(store.read(key), f"{store.uri}/{key}")
        lists = {"labels": "label_names", "fine": "fine_label_names", "coarse": "coarse_label_names"}
        return {kind: _texts(found[name]) for kind, name in lists.items() if isinstance(found.get(name), list)}
    files = {"labels": "batches.meta.txt", "fine": "fine_label_names.txt", "coarse": "coarse_label_names.txt"}
    texts = {kind: store.read(prefix + name).decode("utf-8", "replace") for kind, name in files.items() if name in names}
    return {kind: [line.strip() for line in text.splitlines() if line.strip()] for kind, text in texts.items()}


def _read(data: bytes, where: str) -> Batches:
    if where.endswith(".bin"):
        return _from_binary(data, where)
    found = _unpickle(data, where)
    pixels = found.get("data")
    kinds = {"labels": "labels", "fine": "fine_labels", "coarse": "coarse_labels"}
    labels = {kind: found[name] for kind, name in kinds.items() if name in found}
    if not _are_pixels(pixels) or not labels or not all(_is_labels(values, len(pixels)) for values in labels.values()):
        raise StoreError(f"{where!r} is no batch of CIFAR: it needs data, uint8 (N, {_PIXELS}), and a label an image.")
    return Batches(pixels.reshape(-1, *_SHAPE), {kind: np.array(values, dtype=np.int64) for kind, values in labels.items()})


def _are_pixels(values: object) -> TypeGuard[NDArray[np.uint8]]:
    return (
        isinstance(values, np.ndarray) and values.dtype == np.uint8 and values.ndim == 2 and values.shape[1] == _PIXELS and len(values) > 0
    )


def _is_labels(values: object, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(type(value) is int and 0 <= value < 2**31 for value in values)


def _from_binary(data: bytes, where: str) -> Batches:
    """Records of a label, or of a coarse and a fine one, and 3072 pixels; told apart by the size of the file, then by the labels."""
    for names, counts in ((("labels",), (_TEN,)), (("coarse", "fine"), (COARSE, FINE))):
        size = len(names) + _PIXELS
        if not data or len(data) % size:
            continue
        records = np.frombuffer(data, np.uint8).reshape(-1, size)
        if all(int(records[:, place].max()) < count for place, count in enumerate(counts)):
            labels = {name: records[:, place].astype(np.int64) for place, name in enumerate(names)}
            return Batches(records[:, len(names) :].reshape(-1, *_SHAPE), labels)
    raise StoreError(
        f"{where!r} is damaged or no binary file of CIFAR: its {len(data):,} bytes are no records of 3,073 or 3,074; copy it again."
    )


class _Array:
    """Stands for a pickled numpy array: holds its bytes, shape and type, and runs no code of numpy while it is read."""

    __slots__ = ("value",)

    def __init__(self, *ignored: object) -> None:
        self.value: NDArray[Any] = np.empty(0, np.uint8)

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple() as shape, _Type() as kind, bool() | 0 | 1 as fortran, bytes() | bytearray() | str() as raw):
                data = raw.encode("latin-1") if isinstance(raw, str) else raw
                self.value = np.frombuffer(data, kind.order + kind.code).reshape(shape, order="F" if fortran else "C")
            case _:
                raise pickle.UnpicklingError("an array of another kind")

    @classmethod
    def whole(cls, *state: object) -> "_Array":
        """As protocol 5 has it: bytes, type, shape and order at once."""
        raw, kind, shape, order = state[:4]
        made = cls()
        made.__setstate__((1, shape, kind, order == "F", bytes(raw) if isinstance(raw, bytes | bytearray) else raw))
        return made


class _Type:
    """Stands for a pickled numpy dtype of whole numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *ignored: object) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else str(code)
        self.order = "|"
        if self.code not in ("u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8"):
            raise pickle.UnpicklingError("an array of another type")

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        text = order.decode("ascii") if isinstance(order, bytes) else order
        if text not in ("|", "<", ">", "="):
            raise pickle.UnpicklingError("an array of another byte order")
        self.order = text


class _Reader(pickle.Unpickler):
    """Knows lists, dicts, texts, numbers, and stand-ins for what an array of numpy is pickled as; whatever else is named is refused."""

    where = ""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        stand_ins: dict[tuple[str, str], Callable[..., object]] = {
            ("numpy", "ndarray"): lambda *_: None,
            ("numpy", "dtype"): _Type,
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy.core.numeric", "_frombuffer"): _Array.whole,
            ("numpy._core.numeric", "_frombuffer"): _Array.whole,
            ("_codecs", "encode"): lambda text, encoding: str(text).encode("latin-1"),
        }
        if (module, name) not in stand_ins:
            raise ConfigError(self._refusal(f"{module}.{name}"))
        return stand_ins[module, name]

    def persistent_load(self, pid: object) -> NoReturn:
        raise ConfigError(self._refusal("objects outside it"))

    def _refusal(self, what: str) -> str:
        return f"{self.where!r} is a pickle that asks for {what}, which is not run: only CIFAR's own batches are read."


def _unpickle(data: bytes, where: str) -> dict[str, Any]:
    """The dict of a pickle, its keys as text.

    Raises:
        ConfigError: it names something that is not on the list.
        StoreError: it is damaged or no pickle of a dict.
    """
    try:
        reader = _Reader(io.BytesIO(data), encoding="bytes")
        reader.where = where
        found = reader.load()
    except ConfigError:
        raise
    except Exception:  # a damaged pickle raises whatever the damage leads to
        raise StoreError(f"{where!r} is damaged or no pickled batch of CIFAR: copy it again.") from None
    if not isinstance(found, dict):
        raise StoreError(f"{where!r} is no pickled batch of CIFAR but {with_article(type(found).__name__)}: copy it again.")
    texts = {_text(key): value.value if isinstance(value, _Array) else value for key, value in found.items()}
    return {key: value.tolist() if isinstance(value, np.ndarray) and key.endswith("labels") else value for key, value in texts.items()}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _texts(values: Sequence[object]) -> list[str]:
    return [_text(value) for value in values]
