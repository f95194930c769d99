"""Which files of a folder are data, and which are left out: nothing is left out in silence."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillery.data.decoding import has_picture_ending, is_picture
from distillery.errors import StoreError
from distillery.storage import FolderStore, Store

_NAMED = 3
_HEAD = 16
_HIDDEN = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)
"""What file managers leave in folders and show to nobody; everything that begins with a dot as well."""

_COPIES = ("~", ".bak", ".old", ".orig", ".part", ".partial", ".tmp", ".crdownload", ".swp")

HIDDEN = ("hidden file", "hidden files")
DEAD_LINK = ("link that leads nowhere", "links that lead nowhere")
LOOP = ("link back to a folder that it lies in", "links back to a folder that they lie in")
SPECIAL = ("pipe, socket or device", "pipes, sockets and devices")
COPY = ("backup or unfinished copy", "backups or unfinished copies")
NO_PICTURE = ("file that is no picture", "files that are no pictures")
OUTSIDE = ("picture outside the class folders", "pictures outside the class folders")

Kind = tuple[str, str]
"""What is left out, in the singular and the plural."""


@dataclass
class LeftOut:
    """Files that are left out, by kind; counts every one and names the first few."""

    files: dict[Kind, list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, name: str) -> None:
        """Leave one out."""
        self.files.setdefault(kind, []).append(name)

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))

    def names(self) -> list[str]:
        """All of them."""
        return [shown(name) for names in self.files.values() for name in names]

    def words(self) -> str:
        """`skipped 2 hidden files ('.DS_Store', 'cat/.x') and 1 file that is no picture ('a.txt')`; "" where nothing was."""
        parts = [f"{len(names):,} {kind[len(names) != 1]} ({some(names)})" for kind, names in self.files.items()]
        return f"skipped {' and '.join([', '.join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)}" if parts else ""


@dataclass(frozen=True)
class Listing:
    """A folder's files.

    Attributes:
        keys: of what may be data, sorted.
        folders: keys of the folders below, sorted; a bucket has none that are empty.
        left_out: the others.
    """

    keys: Sequence[str]
    folders: Sequence[str]
    left_out: LeftOut


def some(names: Sequence[str], most: int = _NAMED) -> str:
    """The first names in quotes, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def shown(name: str) -> str:
    """A file's name as text that can be printed: bytes that are no UTF-8 as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_hidden(key: str) -> bool:
    """Whether a file, or a folder that it lies in, is one that file managers do not show."""
    return any(part.startswith(".") or part.lower() in _HIDDEN for part in key.split("/"))


def list_files(store: Store) -> Listing:
    """All files of a folder or bucket, at any depth; links to folders are followed, unless they lead back.

    Raises:
        StoreError: a folder that cannot be listed.
    """
    left_out = LeftOut()
    if not isinstance(store, FolderStore):
        keys = store.list()
        for key in filter(is_hidden, keys):
            left_out.add(HIDDEN, key)
        seen = [key for key in keys if not is_hidden(key)]
        return Listing(seen, sorted({parent for key in seen for parent in _parents(key)}), left_out)
    try:
        keys, folders = _walk(store.root, left_out)
    except OSError as error:
        raise StoreError(f"Cannot list {error.filename!r} ({error.strerror}): check its permissions.") from None
    return Listing(sorted(keys), sorted(folders), left_out)


def choose_pictures(store: Store, keys: Sequence[str], left_out: LeftOut) -> list[str]:
    """Those of the files that are pictures, by the endings of their names or by their first bytes; the others are left out."""
    chosen = []
    for key in keys:
        if key.lower().endswith(_COPIES):
            left_out.add(COPY, key)
        elif has_picture_ending(key) or is_picture(key, _head(store, key)):
            chosen.append(key)
        else:
            left_out.add(NO_PICTURE, key)
    return chosen


def _head(store: Store, key: str) -> bytes:
    path = store.local_path(key)
    if path is None:
        return next(iter(store.stream(key)), b"")[:_HEAD]
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise StoreError(f"{str(path)!r} cannot be read ({error.strerror}): check its permissions.") from None


def _parents(key: str) -> Iterator[str]:
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def _walk(root: Path, left_out: LeftOut) -> tuple[list[str], list[str]]:
    """Keys of files and of folders; each open folder knows those it lies in, by device and number, so that a link back is seen."""
    keys: list[str] = []
    folders: list[str] = []
    if not root.is_dir():
        return keys, folders
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset({_identity(root.stat())}))]
    while waiting:
        folder, above = waiting.pop()
        for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
            key = f"{folder}/{entry.name}" if folder else entry.name
            if is_hidden(entry.name):
                for hidden in _inside(root, key, entry):
                    left_out.add(HIDDEN, hidden)
                continue
            try:
                found = entry.stat()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                left_out.add(DEAD_LINK, key)
                continue
            if stat.S_ISDIR(found.st_mode):
                if _identity(found) in above:
                    left_out.add(LOOP, key)
                else:
                    folders.append(key)
                    waiting.append((key, above | {_identity(found)}))
            elif stat.S_ISREG(found.st_mode):
                keys.append(key)
            else:
                left_out.add(SPECIAL, key)
    return keys, folders


def _inside(root: Path, key: str, entry: "os.DirEntry[str]") -> list[str]:
    """A hidden file, or all files of a hidden folder."""
    if not entry.is_dir(follow_symlinks=False):
        return [key]
    return sorted(Path(folder, name).relative_to(root).as_posix() for folder, _, names in os.walk(root / key) for name in names)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def tally(changes: Mapping[str, int]) -> str:
    """`laid on white (2), rotated as its EXIF says (1)`."""
    return ", ".join(f"{words} ({count:,})" for words, count in sorted(changes.items()))
