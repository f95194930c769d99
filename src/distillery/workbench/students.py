"""What belongs to a student beside its bundle: how its best epoch was chosen, and its place in the store."""

from pathlib import Path

from distillery.documents import Fields, Format
from distillery.errors import MissingResourceError
from distillery.evaluation.report import BEST, Chosen
from distillery.models.bundle import DOCUMENT
from distillery.provenance import Provenance, sha256_file
from distillery.storage import FolderStore, Store
from distillery.workbench.lineage import student_of

CHOICE = Format("distillery-choice", 2, "delete it to go on without, or train the student again")
"""Begins at 2: a document of version 1 need not hold its own hash."""
_CHOICE_FILE = "choice.json"


class _Said(Fields):
    epoch: int
    images: int


def write_choice(student: Path, chosen: Chosen, provenance: Provenance) -> None:
    """Note beside the best student how it was chosen, so that whoever has a copy can tell.

    Args:
        student: the bundle's folder, with `best/` below it.
        chosen: the epoch, and the images that epochs were compared on.
        provenance: of the step that chose.
    """
    FolderStore(student / BEST).write(_CHOICE_FILE, CHOICE.write(provenance, chosen._asdict()))


def read_choice(student: Path) -> Chosen:
    """How a student's best epoch was chosen; nothing is known of one from before this was noted.

    Raises:
        StoreError: the note is damaged.
        CheckpointMismatchError: written by a newer Distillery.
    """
    path = student / BEST / _CHOICE_FILE
    try:
        data = FolderStore(path.parent).read(path.name)
    except MissingResourceError:
        return Chosen()
    said = CHOICE.read(data, str(path)).parse(_Said)
    return Chosen(said.epoch, said.images)


def keep_student(store: Store, student: Path) -> str:
    """Copy a student into a store, where each file that is not there byte for byte is written anew, and return its key.

    May be repeated, and two may do it at once: the folder is called after what is in it, so both write the same.

    Args:
        store: of the run.
        student: the bundle's folder, with what lies below it.
    """
    key = student_of(sha256_file(student / DOCUMENT))
    files = [path.relative_to(student).as_posix() for path in student.rglob("*") if path.is_file()]
    for name in sorted(files, key=lambda name: (name == DOCUMENT, name)):  # without that document there is no bundle
        path, sha256 = student / name, sha256_file(student / name)
        if not store.holds(f"{key}/{name}", path.stat().st_size, sha256):
            store.write_file(f"{key}/{name}", path, sha256)
    return key
