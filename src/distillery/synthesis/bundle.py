"""The published state of a synthesizer: format `distillery-synthesizer`, a safetensors and a JSON file; equal state, equal bytes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from distillery.config import Config
from distillery.documents import Document, Format
from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.provenance import Provenance, sha256_bytes
from distillery.storage import FolderStore
from distillery.synthesis.share import ALONE, Share

FORMAT = Format("distillery-synthesizer", 3, "run the step that trains it again")
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
        share: which of an ensemble's generators it holds.
    """

    method: str
    config: dict[str, Any]
    teacher_sha256: str
    state: dict[str, Any]
    share: Share = ALONE


class SynthesizerFacts(Config):
    """What a bundle's document says, its state aside.

    Attributes:
        method: name of the catalog row.
        method_config: its parsed settings.
        teacher_sha256: the teacher it was trained against.
        share: which of an ensemble's generators it holds.
    """

    method: str
    method_config: dict[str, Any]
    teacher_sha256: str
    share: Share = ALONE


class _Said(SynthesizerFacts):
    state: Any
    tensors_sha256: str
    tensors_bytes: int


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
        "share": asdict(content.share),
        "state": structure,
        "tensors_sha256": sha256_bytes(data),
        "tensors_bytes": len(data),
    }
    document = FORMAT.write(provenance, fields)
    store = FolderStore(folder)
    store.delete(DOCUMENT)
    store.write(TENSORS, data)
    store.write(DOCUMENT, document)
    return sha256_bytes(document)


def read_synthesizer(folder: Path) -> tuple[Document, str]:
    """The JSON of a bundle and the bundle's sha256, without its tensors.

    Raises:
        MissingResourceError: no bundle there.
        StoreError: it is damaged.
        CheckpointMismatchError: another format or a newer version.
    """
    path = folder / DOCUMENT
    if not path.is_file():
        raise MissingResourceError(f"There is no synthesizer bundle at {str(folder)!r}: run the train-generator step first.")
    data = path.read_bytes()
    return FORMAT.read(data, str(path)), sha256_bytes(data)


def describe_synthesizer(folder: Path, teacher_sha256: str) -> SynthesizerFacts:
    """What a bundle says of itself; its tensors, which may be large, are left where they are.

    Args:
        folder: written by `save_synthesizer`.
        teacher_sha256: the teacher in use.

    Raises:
        MissingResourceError: no bundle there.
        CheckpointMismatchError: another teacher's, another format or a newer version.
        StoreError: a damaged document.
    """
    return _said(folder, teacher_sha256)


def load_synthesizer(folder: Path, teacher_sha256: str) -> SynthesizerState:
    """Read a bundle and verify it.

    Args:
        folder: written by `save_synthesizer`.
        teacher_sha256: the teacher in use.

    Raises:
        MissingResourceError: no bundle there.
        CheckpointMismatchError: another teacher's, another format or a newer version.
        StoreError: a damaged document, or tensors that are missing or fail their hash.
    """
    made = _said(folder, teacher_sha256)
    path = folder / TENSORS
    data = path.read_bytes() if path.is_file() else b""
    if sha256_bytes(data) != made.tensors_sha256:
        raise StoreError(f"The tensors at {str(path)!r} are missing or do not match their sha256: run the train-generator step again.")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise StoreError(f"{str(path)!r} is no safetensors file ({error}): run the train-generator step again.") from None
    return SynthesizerState(made.method, made.method_config, made.teacher_sha256, _restored(made.state, tensors, folder), made.share)


def _said(folder: Path, teacher_sha256: str) -> _Said:
    made = read_synthesizer(folder)[0].parse(_Said)
    if made.teacher_sha256 != teacher_sha256:
        raise CheckpointMismatchError(
            f"The synthesizer at {str(folder)!r} was trained against teacher {made.teacher_sha256[:12]}, but the teacher in use is "
            f"{teacher_sha256[:12]}: train a generator for this teacher."
        )
    return made


def list_synthesizers(folder: Path) -> tuple[Path, ...]:
    """The bundles of a trained synthesizer: the folder itself, or those in it where it holds an ensemble's shares, by name.

    Args:
        folder: of a run's synthesizer.
    """
    return (folder,) if (folder / DOCUMENT).is_file() else tuple(sorted(path.parent for path in folder.glob(f"*/{DOCUMENT}"))) or (folder,)


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


def _restored(state: Any, tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
    """The state with its tensors; each belongs to one place."""
    waiting = dict(tensors)
    try:
        restored = _restore(state, waiting)
    except (KeyError, TypeError, ValueError):
        waiting, restored = {"one too few": torch.empty(0)}, {}
    if waiting or not isinstance(restored, dict):
        raise StoreError(f"The state in {str(folder / DOCUMENT)!r} is not of its tensors, so it is damaged: {FORMAT.advice}.")
    return restored


def _restore(value: Any, waiting: dict[str, Tensor]) -> Any:
    """A value of the state; each tensor is taken out of those that wait for their place."""
    if isinstance(value, list):
        return [_restore(item, waiting) for item in value]
    if isinstance(value, dict):
        if _TENSOR in value:
            return waiting.pop(value[_TENSOR])
        return {key: _restore(item, waiting) for key, item in value["$dict"]}
    return value
