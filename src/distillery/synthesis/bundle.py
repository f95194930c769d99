"""The published state of a synthesizer: format `distillery-synthesizer`, a safetensors and a JSON file; equal state, equal bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.provenance import Provenance, check_format, dump_json, load_json, sha256_bytes, stamp
from distillery.storage import FolderStore

FORMAT = "distillery-synthesizer"
VERSION = 1
DOCUMENT = "synthesizer.json"
TENSORS = "state.safetensors"
_TENSOR = "$tensor"


@dataclass(frozen=True)
class SynthesizerState:
    """What a bundle holds.

    Attributes:
        method: name of the catalog row.
        config: its parsed settings.
        teacher_sha256: the teacher it was trained against.
        state: what `Synthesizer.load_state_dict` takes.
    """

    method: str
    config: dict[str, Any]
    teacher_sha256: str
    state: dict[str, Any]


def save_synthesizer(folder: Path, content: SynthesizerState, provenance: Provenance) -> str:
    """Write a bundle; the JSON is written last and is the commit.

    Args:
        folder: made where missing.
        content: what to write; the state is nested dicts and lists of tensors, numbers, strings and booleans.
        provenance: where it comes from.

    Returns:
        sha256 of the bundle: that of its JSON file, which names the tensors' hash.
    """
    tensors: dict[str, Tensor] = {}
    structure = _flatten(content.state, tensors)
    data: bytes = save(tensors)
    fields = {
        "method": content.method,
        "method_config": content.config,
        "teacher_sha256": content.teacher_sha256,
        "state": structure,
        "tensors_sha256": sha256_bytes(data),
        "tensors_bytes": len(data),
    }
    document = dump_json(stamp(FORMAT, VERSION, provenance, fields))
    store = FolderStore(folder)
    store.delete(DOCUMENT)
    store.write(TENSORS, data)
    store.write(DOCUMENT, document)
    return sha256_bytes(document)


def read_synthesizer(folder: Path) -> tuple[dict[str, Any], str]:
    """The JSON of a bundle and the bundle's sha256, without its tensors.

    Raises:
        MissingResourceError: no bundle there.
        CheckpointMismatchError: another format or a newer version.
    """
    path = folder / DOCUMENT
    if not path.is_file():
        raise MissingResourceError(f"There is no synthesizer bundle at {str(folder)!r}: run the train-generator step first.")
    data = path.read_bytes()
    document = load_json(data, str(path))
    check_format(document, FORMAT, VERSION, str(path))
    return document, sha256_bytes(data)


def load_synthesizer(folder: Path, teacher_sha256: str) -> SynthesizerState:
    """Read a bundle and verify it.

    Args:
        folder: written by `save_synthesizer`.
        teacher_sha256: the teacher in use.

    Raises:
        MissingResourceError: no bundle there.
        CheckpointMismatchError: another teacher's, another format or a newer version.
        StoreError: tensors that are missing or fail their hash.
    """
    document, _ = read_synthesizer(folder)
    found = str(document["teacher_sha256"])
    if found != teacher_sha256:
        raise CheckpointMismatchError(
            f"The synthesizer at {str(folder)!r} was trained against teacher {found[:12]}, but the teacher in use is "
            f"{teacher_sha256[:12]}: train a generator for this teacher."
        )
    path = folder / TENSORS
    data = path.read_bytes() if path.is_file() else b""
    if sha256_bytes(data) != document["tensors_sha256"]:
        raise StoreError(f"The tensors at {str(path)!r} are missing or do not match their sha256: run the train-generator step again.")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise StoreError(f"{str(path)!r} is no safetensors file ({error}): run the train-generator step again.") from None
    return SynthesizerState(str(document["method"]), document["method_config"], found, _restore(document["state"], tensors))


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The structure as JSON, each tensor replaced by its number; a dict becomes pairs, because JSON would turn integer keys into text."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        # a copy of its own: safetensors refuses tensors that share memory, and those that are not contiguous
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {"$dict": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_flatten(item, tensors) for item in value]
    assert value is None or isinstance(value, bool | int | float | str), f"a synthesizer's state cannot hold {type(value).__name__}"
    return value


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _restore(item, tensors) for key, item in value["$dict"]}
    return value
