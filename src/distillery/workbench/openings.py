"""Which work each run has opened: a mark that a step leaves beside the run's record before it looks at anything.

Whoever clears a store can so tell the unfinished work of an open run from what nobody will come back to. A mark is
`runs/<id>/opened/<step>/<key>.json`; its name says which, so that one listing reads the marks of all runs, and it holds a digest of the
names of what was there already, so that the work that a run has added to is known without a listing of the whole store.
"""

from collections.abc import Iterable
from typing import NamedTuple

from distillery.documents import Format
from distillery.provenance import Provenance, code_version, sha256_bytes
from distillery.storage import Store
from distillery.workbench.lineage import set_of

FORMAT = Format("distillery-opening", 2, "run its step again")


class Work(NamedTuple):
    """What a step does under one key; its files lie below `checkpoints/<step>/<key>` of the store."""

    step: str
    key: str


def lock_of(work: Work) -> str:
    """The lock that whoever works at it holds, as a path in its workspace; taken before the mark is written."""
    return f"locks/{work.step}-{work.key[:16]}.lock"


def mark_opened(store: Store, run: str, work: Work) -> None:
    """Say that a run works at something; the caller holds the lock of its key."""
    fields = {**work._asdict(), "found": _present(store, work)}
    document = FORMAT.write(Provenance(code_version=code_version()), fields)
    store.write(f"runs/{run}/opened/{work.step}/{work.key}.json", document)


def opened_by_run(keys: Iterable[str]) -> dict[str, set[Work]]:
    """What each run has opened, by the run's id.

    Args:
        keys: of the store, at least those below `runs`.
    """
    opened: dict[str, set[Work]] = {}
    for parts in (key.split("/") for key in keys):
        if len(parts) == 5 and parts[0] == "runs" and parts[2] == "opened":
            opened.setdefault(parts[1], set()).add(Work(parts[3], parts[4].removesuffix(".json")))
    return opened


def has_added(store: Store, run: str) -> bool:
    """Whether any work that a run has opened is not as the run found it.

    Raises:
        StoreError: the store cannot be read, or a mark in it is damaged.
    """
    for key in store.list(f"runs/{run}/opened"):
        said = FORMAT.read(store.read(key), key).fields
        if said.get("found") != _present(store, Work(str(said.get("step")), str(said.get("key")))):
            return True
    return False


def _present(store: Store, work: Work) -> str:
    """Names what lies in the store under a key: checkpoints and outputs, and the shards of a set."""
    folders = (f"checkpoints/{work.step}/{work.key}", set_of(work.key))
    return sha256_bytes("\n".join(name for folder in folders for name in store.list(folder)).encode())
