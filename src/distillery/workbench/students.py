"""The student of a run: how the step that registers it keeps it in the store, on a cluster as on one machine."""

from pathlib import Path

from distillery.models.bundle import DOCUMENT
from distillery.provenance import sha256_bytes, sha256_file
from distillery.storage import Store
from distillery.workbench.lineage import student_of


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
        data = (student / name).read_bytes()
        if not store.holds(f"{key}/{name}", len(data), sha256_bytes(data)):
            store.write(f"{key}/{name}", data)
    return key
