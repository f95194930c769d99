"""The idx files of MNIST and its relatives."""

import gzip
import re
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distillery.errors import StoreError
from distillery.storage import Store

_NAME = re.compile(r"^(?:(?P<prefix>[^/]+)-)?(?P<what>images|labels)[-.]idx\d-ubyte(?P<gzip>\.gz)?$")
_UINT8 = 0x08
_KINDS = (("images", "idx3"), ("images", "idx4"), ("labels", "idx1"))


def pairs(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Names of (images, labels) by the prefix they share, such as `train` and `t10k`; of a file and its gzip the file is taken."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted(names, key=lambda name: (not name.endswith(".gz"), name)):
        if match := _NAME.match(name):
            found.setdefault(match["prefix"] or "", {})[match["what"]] = name
    return {prefix: (pair["images"], pair["labels"]) for prefix, pair in found.items() if len(pair) == 2}


def prefix_of(name: str) -> str | None:
    """The prefix of an idx file's name; None for another file."""
    match = _NAME.match(name)
    return (match["prefix"] or "") if match else None


def possible_names(prefix: str) -> list[str]:
    """What the files of a prefix may be called."""
    start = f"{prefix}-" if prefix else ""
    return [f"{start}{what}{dot}{kind}-ubyte{end}" for what, kind in _KINDS for dot in "-." for end in ("", ".gz")]


def read_idx(store: Store, key: str) -> NDArray[np.uint8]:
    """A uint8 idx file: two zero bytes, a type, the number of dimensions, each dimension as a big-endian integer, the values.

    Raises:
        StoreError: it is damaged, or of another type.
    """
    data = store.read(key)
    try:
        data = gzip.decompress(data) if key.endswith(".gz") else data
        zeros, kind, dimensions = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError):
        zeros, kind = 1, 0
    if zeros or kind != _UINT8:
        raise StoreError(f"{key!r} in {store.uri!r} is damaged or no idx file of unsigned bytes: copy it again.")
    return values
