"""Tensors with a document in the header of their safetensors file; one hash covers the document, the rest of the header and all tensors."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from distillery.config import canonical_json
from distillery.documents import BLANK, SEAL, Document, Format, damaged, needs_seal
from distillery.errors import StoreError
from distillery.provenance import Provenance, check_format, sha256_bytes, stamp

_ENTRY = "distillery"  # one entry only: safetensors writes several in no fixed order
_MARK = '{{\\"{}\\":\\"{}\\"'  # the document as safetensors writes it, at the head of the file: no key of ours sorts before the hash


def write_tensors(format: Format, provenance: Provenance, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The file; equal documents and equal tensors give equal bytes.

    Args:
        format: of the document. One of version 1 holds no hash: who reads it knows that of its bytes.
        provenance: where the tensors come from.
        fields: everything else, plain JSON values, none of a name that sorts before `document_sha256`.
        tensors: on the CPU, contiguous, each with memory of its own.
    """
    document = stamp(format.name, format.version, provenance, fields)
    assert SEAL < min(document), "the hash is looked for at the head of the file"
    if not needs_seal(document):
        return bytes(save(dict(tensors), {_ENTRY: canonical_json(document)}))
    data = save(dict(tensors), {_ENTRY: canonical_json({**document, SEAL: BLANK})})
    return _with_seal(data, BLANK, sha256_bytes(data))


def read_document(format: Format, data: bytes, where: str) -> Document:
    """Check a file's bytes, and read the document alone.

    Args:
        format: that it must have.
        data: its bytes.
        where: path or key of the file, for messages.

    Raises:
        StoreError: it is damaged.
        CheckpointMismatchError: another format, a newer version, or a safetensors file of somebody else.
    """
    document = _header(format, data, where)
    check_format(document, format.name, format.version, where)
    if needs_seal(document) and sha256_bytes(_with_seal(data, said := str(document.get(SEAL)), BLANK)) != said:
        raise damaged(where, format.advice)
    return format.open(document, where)


def read_tensors(format: Format, data: bytes, where: str) -> tuple[Document, dict[str, Tensor]]:
    """Check a file's bytes, and read all of it; raises as `read_document` does."""
    document = read_document(format, data, where)
    try:
        return document, load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError):  # such as a type that torch does not know
        raise StoreError(f"{where} is damaged (its tensors cannot be read): {format.advice}.") from None


def payload(data: bytes) -> bytes:
    """The tensors' bytes alone."""
    return data[8 + int.from_bytes(data[:8], "little") :]


def _header(format: Format, data: bytes, where: str) -> dict[str, Any]:
    """Our document; empty where somebody else wrote the file, which `check_format` then refuses."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise StoreError(f"{where} is damaged or no safetensors file: {format.advice}.")
    try:
        document = json.loads(header["__metadata__"][_ENTRY])
    except (ValueError, RecursionError, LookupError, TypeError):
        return {}
    return document if isinstance(document, dict) else {}


def _with_seal(data: bytes, old: str, new: str) -> bytes:
    return data.replace(_MARK.format(SEAL, old).encode(), _MARK.format(SEAL, new).encode(), 1)
