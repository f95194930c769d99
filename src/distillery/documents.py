"""Every JSON document of ours, written and read in one way: it says its format, version and origin, and holds its own hash.

`document_sha256` is the sha256 of the file's bytes as they are with 64 zeros in its place, so one changed byte is noticed by whoever
does not know the file's hash. It tells damage, not intent: who rewrites a file can hash it again. Where another document names the
file by its sha256, that one is compared too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from distillery.config import Config
from distillery.errors import StoreError
from distillery.provenance import Provenance, check_format, dump_json, load_json, sha256_bytes, stamp

SEAL = "document_sha256"
BLANK = "0" * 64
"""Stands in the seal's place while a file is hashed."""

AGAIN = "fetch or write it again"
HEADER = ("format", "version", "provenance", SEAL)
"""What every document has beside its own fields."""

_LINE = '\n  "{}": "{}"'  # of the outermost object, whatever is called so inside

C = TypeVar("C", bound=Config)


class Fields(Config):
    """What a document must say to be read; whatever else it says is let be."""

    model_config = ConfigDict(extra="ignore")


@dataclass(frozen=True)
class Document:
    """A document whose bytes passed.

    Attributes:
        version: of its format.
        provenance: where it comes from.
        fields: everything else that it says.
        where: path or key, for messages.
        advice: what to do where it is damaged.
    """

    version: int
    provenance: Provenance
    fields: dict[str, Any]
    where: str
    advice: str

    def parse(self, config: type[C], **more: Any) -> C:
        """The fields as a config.

        Args:
            config: its class.
            more: further fields that the config has.

        Raises:
            StoreError: a field is missing or wrong, and the sentence names it.
        """
        try:
            return config.model_validate({**self.fields, **more})
        except ValidationError as error:
            path = ".".join(str(part) for part in error.errors(include_url=False, include_context=False)[0]["loc"])
            field = f"its field {path!r} is missing or wrong" if path else "its fields contradict each other"
            raise StoreError(f"{self.where} is damaged ({field}): {self.advice}.") from None


@dataclass(frozen=True)
class Format:
    """A kind of document; one module writes it.

    Attributes:
        name: such as "distillery-set".
        version: the one that is written, and the newest that is read. Documents of version 1 hold no hash of themselves and are read as
            they were written, so a new format begins with 2, unless its files are named by their hash.
        advice: what to do with a damaged one, the end of a sentence.
    """

    name: str
    version: int
    advice: str = AGAIN

    def write(self, provenance: Provenance, fields: Mapping[str, Any]) -> bytes:
        """The file; equal documents give equal bytes.

        Args:
            provenance: where the document comes from.
            fields: everything else, plain JSON values; none may be called format, version, provenance or document_sha256.
        """
        assert SEAL not in fields, f"no field may be called {SEAL}"
        return seal(stamp(self.name, self.version, provenance, fields))

    def read(self, data: bytes, where: str) -> Document:
        """Check a file before anything in it is believed.

        Args:
            data: its bytes.
            where: path or key of the document, for messages.

        Raises:
            StoreError: it is damaged.
            CheckpointMismatchError: another format, or a newer version than this code reads.
        """
        document = load_json(data, where)
        check_format(document, self.name, self.version, where)
        _check_seal(data, document, where, self.advice)
        return self.open(document, where)

    def open(self, document: Mapping[str, Any], where: str) -> Document:
        """A parsed document whose hash has been checked.

        Raises:
            StoreError: its provenance is none.
        """
        try:
            provenance = Provenance.model_validate(document.get("provenance"))
        except ValidationError:
            raise StoreError(f"{where} is damaged (its provenance is missing or wrong): {self.advice}.") from None
        fields = {name: value for name, value in document.items() if name not in HEADER}
        return Document(document["version"], provenance, fields, where, self.advice)


def read_any(data: bytes, where: str) -> dict[str, Any]:
    """What a document says whose format others know: only its bytes are checked.

    Args:
        data: its bytes.
        where: path or key of the document, for messages.

    Raises:
        StoreError: it is damaged.
    """
    document = load_json(data, where)
    _check_seal(data, document, where, AGAIN)
    return document


def needs_seal(document: Mapping[str, Any]) -> bool:
    """Whether a document must hold its hash; one of version 1 that holds one was changed, and must pass it as well."""
    return document.get("version") != 1 or SEAL in document


def damaged(where: str, advice: str) -> StoreError:
    """What is said of a file that fails its own hash."""
    return StoreError(f"{where} is damaged: its bytes fail the sha256 that it says of itself (document_sha256); {advice}.")


def seal(document: Mapping[str, Any]) -> bytes:
    """The bytes of a stamped document with its hash in it; a hash that it has is made anew."""
    data = dump_json({**document, SEAL: BLANK})
    return _with_seal(data, BLANK, sha256_bytes(data))


def _check_seal(data: bytes, document: Mapping[str, Any], where: str, advice: str) -> None:
    if needs_seal(document) and sha256_bytes(_with_seal(data, said := str(document.get(SEAL)), BLANK)) != said:
        raise damaged(where, advice)


def _with_seal(data: bytes, old: str, new: str) -> bytes:
    return data.replace(_LINE.format(SEAL, old).encode(), _LINE.format(SEAL, new).encode(), 1)
