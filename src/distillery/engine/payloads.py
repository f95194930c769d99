"""The payload of a checkpoint: a state in one file of torch.save, under the hash of its bytes; never whole in memory beside the state."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from distillery.engine.growing import anew
from distillery.errors import MissingResourceError, StoreError
from distillery.provenance import sha256_file
from distillery.storage import Store
from distillery.storage.spool import spool

FOLDER = "payloads"


@dataclass(frozen=True)
class Payload:
    """One in a store.

    Attributes:
        key: of its object.
        sha256: of its bytes.
        size: bytes.
    """

    key: str
    sha256: str
    size: int


def write_payload(store: Store, state: dict[str, Any]) -> Payload:
    """Write a state; equal states give equal keys and equal bytes.

    Args:
        store: of the checkpoints.
        state: nested dicts and lists of tensors, numbers, strings and booleans: what `torch.load(weights_only=True)` reads.

    Raises:
        StoreError: it cannot be written; nothing is left of it.
    """
    with spool(store) as file:
        torch.save(state, cast("IO[bytes]", file))
        sha256 = file.finish()
        payload = Payload(f"{FOLDER}/{sha256}.pt", sha256, file.size)
        store.write_file(payload.key, file.path, sha256, give=True)
    return payload


def read_payload(store: Store, key: str, sha256: str) -> dict[str, Any]:
    """Read a state back, on the CPU.

    Its tensors lie in the file, which is mapped into memory page by page as they are read; a file that is removed meanwhile stays until the
    last tensor goes. What is written into them does not reach the file.

    Args:
        store: of the checkpoints.
        key: of the payload.
        sha256: of its bytes.

    Raises:
        StoreError: it is missing or damaged.
    """
    advice = anew(store)
    try:
        if (path := store.local_path(key)) is not None:
            return _load(path, sha256_file(path) == sha256, key, advice)
        with spool(store) as file:
            for part in store.stream(key):
                file.write(part)
            return _load(file.path, file.finish() == sha256, key, advice)
    except MissingResourceError:
        raise StoreError(f"The checkpoint payload {key!r} is missing: {advice}.") from None


def _load(path: Path, whole: bool, key: str, advice: str) -> dict[str, Any]:
    if not whole:
        raise StoreError(f"The checkpoint payload {key!r} does not match its sha256, so it is damaged: {advice}.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise StoreError(f"The checkpoint payload {key!r} cannot be read ({type(error).__name__}): {advice}.") from None
    return state
