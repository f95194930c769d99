"""What the commands about sets share."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillery.data.store import SyntheticSet
    from distillery.types import Classifier

SHA256_HELP = "Refuse any other bundle than the one with this sha256 (of its bundle.json)."
SET_HELP = "Folder or URI of a set (it holds manifest.json), or a step's output folder with reference.json."


def open_set(where: str, teacher_sha256: str = "") -> "SyntheticSet":
    """The set at a prefix, or the one that a folder's reference.json names, whose digest is then checked.

    Args:
        where: a path or a URI.
        teacher_sha256: the teacher it must be of; "" accepts any.

    Raises:
        MissingResourceError: no set is published there.
        CheckpointMismatchError: the set is of another teacher.
        StoreError: a damaged manifest, or another set than the one referred to.
    """
    from distillery.data.reference import open_set

    return open_set(where if "://" in where else str(Path(where).expanduser()), teacher_sha256)


def open_teacher(uri: str) -> "tuple[Classifier, str]":
    """A teacher's bundle, frozen, and its sha256.

    Raises:
        MissingResourceError: no bundle there.
        StoreError: damaged weights.
    """
    from tempfile import TemporaryDirectory

    from distillery.models.bundle import VerifiedBundle, fetch_bundle

    with TemporaryDirectory() as folder:
        path = fetch_bundle(uri, Path(folder))
        bundle = VerifiedBundle(path)
        return bundle.classifier, bundle.sha256
