"""Checkpoints of a loop in progress, and the result of a finished one.

The payload is written first, under the hash of its bytes; `latest.json` then points at it, and older payloads go last: whenever
the process dies, the pointer names a whole payload. What only grows lies in blocks that are written once, see `growing`; none is removed
before the work is finished, so that no worker of a key takes away what another's pointer names.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distillery.config import Config
from distillery.documents import Format
from distillery.engine.growing import ADVICE, FOLDER, GrowingList
from distillery.engine.payloads import FOLDER as PAYLOADS
from distillery.engine.payloads import read_payload, write_payload
from distillery.errors import DistilleryError, MissingResourceError, StoreError
from distillery.provenance import Provenance, code_version
from distillery.storage import Store

logger = logging.getLogger(__name__)

POINTER = Format("distillery-checkpoint", 2, ADVICE)
RESULT = Format("distillery-result", 2, ADVICE)
_POINTER = "latest.json"
_RESULT = "result.json"
_SNAPSHOTS = "snapshots"  # of `Selection`
_SAMPLE = "sample"  # of `SampledPool`
_LISTS = "lists"  # key of a state


class _Pointer(Config):
    round: int
    payload: str
    sha256: str
    bytes: int
    threads: int


class _Result(Config):
    result: dict[str, Any]


class Checkpoints:
    """The checkpoints of one step under one key.

    Args:
        store: where they lie, already below the key.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: set[str] = set()  # payloads that this process wrote or read
        self._lists: dict[str, GrowingList] = {}

    def save(self, round: int, state: dict[str, Any], lists: Mapping[str, Sequence[Config]] | None = None) -> None:
        """Write a checkpoint and drop the older ones.

        Args:
            round: how many rounds or epochs are finished.
            state: nested dicts and lists of tensors, numbers, strings and booleans: what `torch.load(weights_only=True)` reads.
            lists: further parts of the state, by name, that only grow from save to save: of them only what is new is written.
        """
        for name, items in (lists or {}).items():
            self._lists.setdefault(name, GrowingList(self.store)).grow(items)
        state = {**state, _LISTS: {name: found.state_dict() for name, found in self._lists.items()}}
        made = write_payload(self.store, state)
        payload = made.key
        pointer = _Pointer(round=round, payload=payload, sha256=made.sha256, bytes=made.size, threads=torch.get_num_threads())
        self._known.add(payload)
        document = POINTER.write(Provenance(code_version=code_version()), pointer.to_json())
        self.store.write(_POINTER, document)
        # no lock reaches the other machines that write to a remote store: what is not known here may be what another's pointer names
        dropped = (self._known if self.store.remote else set(self.store.list(PAYLOADS))) - {payload}
        self._drop(dropped)
        if (named := self._named()) in dropped or (named == payload and not self.store.exists(payload)):
            # another worker of this key computes the same payloads, and one has dropped what the other has just named
            write_payload(self.store, state)
            self.store.write(_POINTER, document)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """The finished rounds and the state of the newest checkpoint, on the CPU, lists as JSON values; None where there is none.

        Raises:
            StoreError: the pointer is damaged, or the payload or a part of a list is missing or fails its hash.
            CheckpointMismatchError: written by a newer Distillery.
        """
        where = f"The checkpoint {_POINTER} in {self.store.uri!r}"
        try:
            pointer = POINTER.read(self.store.read(_POINTER), where).parse(_Pointer)
        except MissingResourceError:
            return None
        try:
            state = read_payload(self.store, pointer.payload, pointer.sha256)
            state |= self._grown(state.pop(_LISTS, {}))
        except StoreError:
            if self._named() == pointer.payload:
                raise
            return self.load()  # another worker of this key has gone on, or has finished
        if pointer.threads != torch.get_num_threads():
            logger.warning(
                "The checkpoint was written with %d threads and this process has %d: the run will not end bit-equal.",
                pointer.threads,
                torch.get_num_threads(),
            )
        self._known.add(pointer.payload)
        return pointer.round, state

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Record the result of finished work unless there is one, then drop the checkpoints and snapshots that led to it.

        Args:
            result: plain JSON values.

        Returns:
            The result that stands: this one, or that of another worker who came first.
        """
        self.store.create(_RESULT, RESULT.write(Provenance(code_version=code_version()), {"result": result}))
        standing = self.finished()  # read back: few servers tell truly who came first
        assert standing is not None, "a result was just written"
        self.store.delete(_POINTER)
        self._drop({key for folder in (PAYLOADS, _SNAPSHOTS, FOLDER, _SAMPLE) for key in self.store.list(folder)})
        return standing

    def finished(self) -> dict[str, Any] | None:
        """The result of finished work, None where it is not finished.

        Raises:
            StoreError: it is damaged.
            CheckpointMismatchError: written by a newer Distillery.
        """
        if not self.store.exists(_RESULT):
            return None
        where = f"The result {_RESULT} in {self.store.uri!r}"
        return RESULT.read(self.store.read(_RESULT), where).parse(_Result).result

    def _named(self) -> str:
        """The payload that the pointer names now, "" where nothing or nobody says it."""
        try:
            return POINTER.read(self.store.read(_POINTER), _POINTER).parse(_Pointer).payload
        except DistilleryError:
            return ""

    def _grown(self, states: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        self._lists = {name: GrowingList(self.store) for name in states}
        return {name: self._lists[name].load_state_dict(state) for name, state in states.items()}

    def _drop(self, keys: set[str]) -> None:
        for key in sorted(keys):
            self.store.delete(key)
        self._known -= keys
