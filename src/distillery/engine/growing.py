"""Lists of a checkpoint that only grow, such as the shards of a pool: what a save writes of them does not grow with them.

Items are gathered in blocks of `BLOCK`. A full block is written once, under the hash of its bytes, and its place is taken by that hash, in
a list of hashes that is gathered in blocks likewise. So a checkpoint holds the last few items and hashes of each level, and each item is
written into a file of its own level once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distillery.config import Config
from distillery.documents import Format
from distillery.errors import MissingResourceError, StoreError
from distillery.provenance import Provenance, code_version, sha256_bytes
from distillery.storage import Store

ADVICE = "delete the folder that it lies in to start this step anew"
FORMAT = Format("distillery-list", 2, ADVICE)
FOLDER = "lists"
BLOCK = 64


def anew(store: Store) -> str:
    """What to do where a part of a checkpoint is gone: parts lie in folders below, and without one of these nothing begins anew."""
    return f"delete the folder {store.uri!r} to start this step anew"


class _Block(Config):
    items: tuple[Any, ...]


class GrowingList:
    """One list.

    Args:
        store: of the checkpoints; blocks lie in its `lists/`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._levels: list[list[Any]] = [[]]
        self._length = 0

    def grow(self, items: Sequence[Config]) -> None:
        """Take up what came since the last call.

        Args:
            items: the whole list, of which those that were there before are not looked at.
        """
        assert len(items) >= self._length, "the list has shrunk"
        for item in items[self._length :]:
            self._put(item.to_json(), 0)
        self._length = len(items)

    def state_dict(self) -> dict[str, Any]:
        """The last items, and the hashes of the blocks before them."""
        return {"levels": [list(level) for level in self._levels], "length": self._length}

    def load_state_dict(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Continue from `state_dict()`; all items, from the first.

        Raises:
            StoreError: a block is gone or damaged.
            CheckpointMismatchError: one was written by a newer Distillery.
        """
        self._levels = [list(level) for level in state["levels"]]
        self._length = int(state["length"])
        items: list[Any] = []
        for level in reversed(self._levels):
            items = [*(item for key in items for item in self._read(key)), *level]
        return items

    def _put(self, item: Any, level: int) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(item)
        if len(self._levels[level]) == BLOCK:
            data = FORMAT.write(Provenance(code_version=code_version()), {"items": self._levels[level]})
            sha256 = sha256_bytes(data)
            self._store.write(_key(sha256), data)
            self._levels[level] = []
            self._put(sha256, level + 1)

    def _read(self, sha256: str) -> tuple[Any, ...]:
        key = _key(sha256)
        try:
            data = self._store.read(key)
        except MissingResourceError:
            data = b""
        if sha256_bytes(data) != sha256:
            raise StoreError(f"The block {key!r} of a checkpoint's list in {self._store.uri!r} is missing or damaged: {anew(self._store)}.")
        return FORMAT.read(data, key).parse(_Block).items


def _key(sha256: str) -> str:
    return f"{FOLDER}/{sha256}.json"
