"""What an audit holds in its hands: bytes as they lie, and links of the chain as they are found.

Three things can happen to a link. Its bytes are read and agree with everything that is said of them. Or nobody can be asked for them: a
server that is down, a folder of another machine; that is a `MissingResourceError` here, and no break. Or they are gone from a place that
answers, or are others: a `StoreError`, and the chain is broken.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from distillery.errors import DistilleryError, MissingResourceError, StoreError
from distillery.models.bundle import DOCUMENT, WEIGHTS, read_bundle, read_origin
from distillery.provenance import Provenance, sha256_bytes, sha256_file
from distillery.storage import Store, open_store

_BROKEN = "The chain is broken at the"
State = Literal["ok", "unreachable", "unused"]


@dataclass
class Link:
    """One thing that a student comes from; filled in while it is looked at.

    Attributes:
        name: version, served model, student, report, run, set, images, generator, statistics, images of another domain, weights to begin
            with or teacher.
        what: it, in words.
        sha256: names its bytes; "" where nothing says it.
        where: it lies, or should.
        state: ok, unreachable (nobody there could be asked), unused (the method needs none).
        note: why it was not reached, "" where it was.
    """

    name: str
    what: str
    sha256: str = ""
    where: str = ""
    state: State = "ok"
    note: str = ""

    def to_json(self) -> dict[str, str]:
        """The link as plain JSON values."""
        return asdict(self)


def find_link(name: str, what: str, look: Callable[[Link], None]) -> Link:
    """Look at one link.

    Args:
        name: of the link.
        what: it, in words; `look` may say it better.
        look: reads and compares, and fills in the link as it learns.

    Raises:
        StoreError: it is broken.
    """
    link = Link(name, what)
    try:
        look(link)
    except MissingResourceError as error:
        link.state, link.note = "unreachable", str(error)
    except DistilleryError as error:
        said = str(error)
        raise (StoreError(said) if said.startswith(_BROKEN) else broken(name, said)) from None
    return link


def broken(name: str, reason: str) -> StoreError:
    """The sentence about a broken link."""
    return StoreError(f"{_BROKEN} {name}: {reason.rstrip('.')}.")


def fetch(store: Store | None, key: str) -> bytes:
    """The bytes of an object as they lie, past every cache.

    Raises:
        MissingResourceError: the store cannot be asked.
        StoreError: the store answers, and has no such object.
    """
    present = _present(store)
    try:
        return b"".join(present.stream(key))
    except MissingResourceError:
        raise StoreError(f"{key!r} is gone from {present.uri!r}") from None
    except DistilleryError as error:
        raise MissingResourceError(str(error)) from None


def names(store: Store | None, prefix: str) -> list[str]:
    """Keys of all objects below a folder of a store.

    Raises:
        MissingResourceError: the store cannot be asked.
    """
    try:
        return _present(store).list(prefix)
    except StoreError as error:
        raise MissingResourceError(str(error)) from None


def match(data: bytes, sha256: str, what: str, who: str) -> bytes:
    """The bytes, if they are those that were named.

    Raises:
        StoreError: they are not.
    """
    if (found := sha256_bytes(data)) != sha256:
        raise StoreError(f"{what} has sha256 {found}, but {who} {sha256 or 'nothing'}")
    return data


def agree(expected: Mapping[str, str], said: Mapping[str, str], who: str) -> None:
    """Refuse words that are not those of the bytes.

    Raises:
        StoreError: naming the first.
    """
    for name, text in expected.items():
        if said.get(name, "") != text:
            raise StoreError(f"{who} says {name} = {said.get(name) or 'nothing'}, but it is {text or 'nothing'}")


def keep(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write what was fetched into a folder, for those who read paths."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _present(store: Store | None) -> Store:
    if store is None:
        raise MissingResourceError("No store is named, so nothing says where it lies: give --store.")
    inside = store.local_path("runs")
    if inside is not None and not inside.parent.is_dir():
        raise MissingResourceError(f"There is no folder {store.uri!r} on this machine.")
    return store


def check_bundle(folder: Path, place: str) -> tuple[str, Provenance]:
    """A bundle in words and where it comes from, after its weights passed their hash.

    Args:
        folder: a local copy.
        place: where it was read, for messages.

    Raises:
        StoreError: damaged, or its weights fail their hash.
    """
    info, _ = read_bundle(folder)
    if (found := sha256_file(folder / WEIGHTS)) != info.weights_sha256:
        raise StoreError(f"{WEIGHTS} in {place!r} has sha256 {found}, but {DOCUMENT} promises {info.weights_sha256}")
    what = f"{info.architecture.name}, {info.parameters:,} parameters, {info.num_classes} classes"
    return what, read_origin(folder)


def find_bundle(link: Link, folder: Path, who: str) -> Provenance:
    """Where the bundle comes from that a link names by its place and its hash, once its bytes are the named ones; says what it is.

    Args:
        link: with `where` and `sha256`.
        folder: for a local copy.
        who: names it.

    Raises:
        MissingResourceError: its place cannot be asked.
        StoreError: it is gone, is another, or its weights fail their hash.
    """
    place = open_store(link.where)
    files = {name: fetch(place, name) for name in (DOCUMENT, WEIGHTS)}
    match(files[DOCUMENT], link.sha256, f"{DOCUMENT} in {link.where!r}", who)
    link.what, made = check_bundle(keep(folder, files), link.where)
    return made
