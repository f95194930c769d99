"""A reference to a published set, which a pipeline hands on instead of its bytes."""

from pathlib import Path

from distillery.config import Config
from distillery.data.manifest import MANIFEST
from distillery.data.noise import is_noise
from distillery.data.store import SyntheticSet
from distillery.documents import Format
from distillery.errors import CheckpointMismatchError, StoreError
from distillery.provenance import Provenance, load_json
from distillery.storage import FolderStore, open_store

REFERENCE_FORMAT = Format("distillery-set-reference", 2, "run the step that made the set again")
REFERENCE = "reference.json"


class SetReference(Config):
    """Where a published set is, and the sha256 of its manifest, which names every byte of it."""

    uri: str
    sha256: str


def write_reference(folder: Path, reference: SetReference) -> None:
    """Write what a pipeline hands on instead of a set: a copy of its manifest, its URI and its digest.

    Raises:
        MissingResourceError: no set is published at the reference.
        StoreError: the set there is another one, or the folder cannot be written.
    """
    published = _open_exactly(reference, "")
    FolderStore(folder).write(MANIFEST, published.store.read(MANIFEST))
    refer(folder, reference, published.manifest.provenance)


def refer(folder: Path, reference: SetReference, provenance: Provenance) -> None:
    """Write a reference, without a look at what it names; raises as every writing does."""
    FolderStore(folder).write(REFERENCE, REFERENCE_FORMAT.write(provenance, reference.to_json()))


def read_reference(folder: Path) -> SetReference:
    """The reference in a folder made by `write_reference`, without opening the set.

    Raises:
        MissingResourceError: the folder has none.
        CheckpointMismatchError: it is of a newer version than this code reads.
        StoreError: it is damaged.
    """
    where = f"The set reference {str(folder / REFERENCE)!r}"
    return REFERENCE_FORMAT.read(FolderStore(folder).read(REFERENCE), where).parse(SetReference)


def open_reference(folder: Path, teacher_sha256: str = "") -> SyntheticSet:
    """The set that a reference names.

    Args:
        folder: made by `write_reference`.
        teacher_sha256: the teacher it must be of; "" accepts any.

    Raises:
        MissingResourceError: the reference or the set is not there.
        CheckpointMismatchError: the set is of another teacher or of a newer version.
        StoreError: the set at its URI is no longer the one that was referred to.
    """
    return _open_exactly(_nearest(folder, read_reference(folder)), teacher_sha256)


def open_set(uri: str, teacher_sha256: str = "") -> SyntheticSet:
    """The set that is published at a URI, or the one that a step's reference there names.

    Args:
        uri: of a set, of its manifest, or of the folder in which a step left its reference.
        teacher_sha256: the teacher it must be of; "" accepts any.

    Raises:
        MissingResourceError: no set is published there.
        CheckpointMismatchError: it is of another teacher or of a newer version.
        StoreError: a damaged manifest, or another set than the one referred to.
    """
    place = _place(uri)
    return open_reference(Path(place), teacher_sha256) if _refers(place) else SyntheticSet.open(place, teacher_sha256)


def find_set(uri: str) -> SyntheticSet | None:
    """As `open_set`, of whatever teacher; None where there is neither a set nor a reference, and of noise.

    Raises:
        MissingResourceError: a reference to a set that is gone.
        CheckpointMismatchError: a set of a newer version.
        StoreError: a damaged manifest, or another set than the one referred to.
    """
    place = _place(uri)
    if is_noise(uri):
        return None
    name = REFERENCE if _refers(place) else MANIFEST
    if name == MANIFEST and not open_store(place).exists(MANIFEST):
        return None
    try:
        return open_set(place)
    except (CheckpointMismatchError, StoreError) as error:
        if _says_ours(open_store(place).read(name)):
            raise
        raise type(error)(f"{str(error).rstrip('.')}; or, where the folder holds pictures, move its {name} out of it.") from None


def _says_ours(data: bytes) -> bool:
    """Whether a file that could not be read calls itself a document of ours: other programs call theirs by the same names."""
    try:
        return str(load_json(data, "").get("format", "")).startswith("distillery-")
    except StoreError:
        return False


def _place(uri: str) -> str:
    return uri.removesuffix(f"/{MANIFEST}").removesuffix(f"/{REFERENCE}")


def _refers(place: str) -> bool:
    return "://" not in place and (Path(place) / REFERENCE).is_file()


def _nearest(folder: Path, reference: SetReference) -> SetReference:
    """A reference that lies in a store, where older runs kept it, is to the set of that store, also where it was copied."""
    place = "/".join(reference.uri.split("/")[-2:])
    for parent in folder.absolute().parents:
        if place.startswith("sets/") and (parent / place / MANIFEST).is_file():
            return reference.model_copy(update={"uri": str(parent / place)})
    return reference


def _open_exactly(reference: SetReference, teacher_sha256: str) -> SyntheticSet:
    found = SyntheticSet.open(reference.uri, teacher_sha256)
    if found.digest != reference.sha256:
        raise StoreError(
            f"The set at {reference.uri!r} is {found.digest[:12]}, not {reference.sha256[:12]} as referred to: run its step again."
        )
    return found
