"""Parts of a data set side by side in a folder, such as `train` and `t10k`: found by their files' names; one is chosen and read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distillery.data import arrays, cifar, idx
from distillery.data.class_names import match_classes
from distillery.data.decoding import has_picture_ending
from distillery.data.folders import FoundPictures
from distillery.data.listing import some
from distillery.errors import ConfigError
from distillery.storage import Store

Split = Literal["train", "test"]
Kind = Literal["idx", "cifar", "npy", "npz"]

_TESTS, _TRAINS = ("t10k", "test", "testing", "eval", "val", "valid", "validation", "dev"), ("train", "training")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".rar")
_CIFAR_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "train", "test")


@dataclass(frozen=True)
class DataPart:
    """One part.

    Attributes:
        name: as the path may end with; empty where the files' names say nothing.
        kind: of its files.
        files: their keys; of pairs the images first.
        folder: key of the folder that they lie in, "" for the data set's own.
        beside: names of all files there.
        notes: how it was chosen.
    """

    name: str
    kind: Kind
    files: tuple[str, ...]
    folder: str = ""
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def read(self, store: Store, class_names: Sequence[str] = ()) -> FoundPictures:
        """Read it.

        Args:
            store: the data set's folder.
            class_names: the classifier's; a data set that names its own classes is numbered by them where they are the same ones.

        Raises:
            ConfigError: files that do not fit together.
            StoreError: a damaged file.
        """
        where = f"{store.uri}/{self.files[0]}"
        if self.kind == "cifar":
            images, labels, notes = _read_cifar(store, self, class_names)
            return FoundPictures(images, labels, (*self.notes, *notes))
        if self.kind == "npz":
            return read_npz(store.read(self.files[0]), where, self.notes)
        read = [
            idx.read_idx(store, key) if self.kind == "idx" else arrays.read_npy(store.read(key), f"{store.uri}/{key}") for key in self.files
        ]
        pixels, changes = arrays.as_images(read[0], where)
        return FoundPictures(pixels, arrays.as_labels(read[1], len(pixels), f"{store.uri}/{self.files[1]}"), (*self.notes, *changes))


def read_npz(data: bytes, where: str, notes: tuple[str, ...] = ()) -> FoundPictures:
    """Labelled images of an npz file: `images` and `labels`, or such pairs as `x_test` and `y_test`.

    Raises:
        ConfigError: arrays of other names, types or shapes; names those that are there.
        StoreError: a damaged file.
    """
    _, names = arrays.read_npz(data, where, ())
    found = arrays.pairs(names)
    part = choose([DataPart(split, "npz", pair) for split, pair in found.items()], "test", where, of_file=True)
    if part is None:
        missing = "labels" if "images" in names else "images"
        raise ConfigError(f"{where!r} has no array {missing!r} but {names}: save it with arrays 'images' and 'labels'.")
    read, _ = arrays.read_npz(data, where, part.files)
    images, labels = (read[name] for name in part.files)
    pixels, changes = arrays.as_images(images, where)
    return FoundPictures(pixels, arrays.as_labels(labels, len(pixels), where), (*notes, *part.notes, *changes))


def find_parts(keys: Sequence[str], below: bool) -> list[DataPart]:
    """Parts among a folder's files.

    Args:
        keys: of all files.
        below: look into the folders below, and not into this one.
    """
    folders: dict[str, list[str]] = {}
    for key in keys:
        folder, _, name = key.rpartition("/")
        folders.setdefault(folder, []).append(name)
    return [part for folder, names in folders.items() if bool(folder) == below for part in _parts_of(folder, names)]


def choose(parts: Sequence[DataPart], split: Split, where: str, of_file: bool = False) -> DataPart | None:
    """The part that is meant: the only one, else the only one of the split; None of none.

    Args:
        parts: to choose from.
        split: that is wanted.
        where: they lie, for the error.
        of_file: they are arrays of one file.

    Raises:
        ConfigError: several that could be meant.
    """
    if len(parts) < 2:
        return parts[0] if parts else None
    names = [f"{part.folder}/{part.name}".strip("/") for part in parts]
    folders = {part.folder for part in parts}
    wanted = [part for part in parts if role_of(part.name) == split] if len(folders) == 1 else []
    if len(wanted) > 1:
        best = min(_TESTS.index(_last(part.name)) for part in wanted) if split == "test" else -1
        wanted = [part for part in wanted if split == "test" and _TESTS.index(_last(part.name)) == best]
    if len(wanted) != 1:
        ends = f"end the path with one of {', '.join(sorted(names))}"
        advice = "save the ones that are meant as 'images' and 'labels'" if of_file else ends
        raise ConfigError(f"{where!r} holds several parts: {advice}.")
    others = [name for name, part in zip(names, parts, strict=True) if part is not wanted[0]]
    note = f"{wanted[0].name!r} taken, not {some(others)}" + ("" if of_file else f" (end the path with {others[0]!r} for that)")
    return _noted(wanted[0], note)


def role_of(name: str) -> Split | None:
    """What a part is for, by the last word of its name; None where that says nothing."""
    last = _last(name)
    return "test" if last in _TESTS else "train" if last in _TRAINS else None


def part_named(store: Store, name: str) -> DataPart | None:
    """The part of a folder that a path's end means; the folder may hold anything, so files are asked for by name and not listed.

    Raises:
        ConfigError: of a pair of files one is missing.
    """
    found = [key for key in _possible_names(name) if store.exists(key)]
    parts = find_parts(found, below=False) or find_parts(found, below=True)
    exact = [part for part in parts if part.name == name] or [part for part in parts if role_of(part.name) == name]
    half = next((key for key in found if idx.prefix_of(key) == name), None)
    if not exact and half:
        return part_of_file(store, half, f"{store.uri}/{half}")
    return exact[0] if exact else None


def part_of_file(store: Store, name: str, where: str) -> DataPart:
    """The part that one file belongs to.

    Args:
        store: its folder.
        name: of the file, which is there.
        where: its URI, for the error.

    Raises:
        ConfigError: it is of no kind that is read; says of which it is.
    """
    lower = name.lower()
    if lower.endswith(_ARCHIVES):
        raise ConfigError(f"{where!r} is an archive, which is not read: unpack it and give the folder.")
    if has_picture_ending(name):
        raise ConfigError(f"{where!r} is one picture: give the folder that holds a folder of pictures a class.")
    if cifar.is_batch(name):
        return DataPart("", "cifar", (name,), "", tuple(meta for meta in cifar.NAME_FILES if store.exists(meta)))
    prefix = idx.prefix_of(name)
    if prefix is None and not lower.endswith(".npy"):
        raise ConfigError(
            f"{where!r} is a file of a kind that is not read: give an npz file, a folder of idx or npy files, of CIFAR's batches, or of "
            "images a class."
        )
    names = [key for key in (idx.possible_names(prefix) if prefix is not None else _npy_beside(name)) if store.exists(key)]
    part = next((part for part in find_parts([*names, name], below=False) if name in part.files or part.name == prefix), None)
    if part is None:
        raise ConfigError(f"{where!r} has no file of {'images' if 'label' in lower else 'labels'} beside it: put both into one folder.")
    return part


def archives(keys: Sequence[str]) -> list[str]:
    """Those of some files that have to be unpacked first."""
    return [key for key in keys if key.lower().endswith(_ARCHIVES)]


def _parts_of(folder: str, names: Sequence[str]) -> list[DataPart]:
    start = f"{folder}/" if folder else ""
    beside = tuple(names)
    found: list[tuple[str, Kind, tuple[str, ...]]] = [(prefix, "idx", pair) for prefix, pair in idx.pairs(names).items()]
    found += [(split, "cifar", files) for split, files in cifar.splits(names).items()]
    stems = {name[: -len(".npy")]: name for name in names if name.lower().endswith(".npy")}
    found += [(split, "npy", (stems[images], stems[labels])) for split, (images, labels) in arrays.pairs(list(stems)).items()]
    found += [(name[: -len(".npz")], "npz", (name,)) for name in names if name.lower().endswith(".npz")]
    return [DataPart(name, kind, tuple(start + file for file in files), folder, beside) for name, kind, files in found]


def _read_cifar(store: Store, part: DataPart, class_names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    batches = cifar.read_batches(store, part.files)
    kind = "labels" if "labels" in batches.labels else "coarse" if len(class_names) == cifar.COARSE else "fine"
    if kind not in batches.labels:
        raise ConfigError(f"{store.uri!r} has no {kind} labels in its batches but {', '.join(batches.labels)}: use whole batches of CIFAR.")
    labels = batches.labels[kind]
    own = cifar.read_class_names(store, part.beside, part.folder).get(kind, [])
    order = _same_classes(own, class_names, store.uri) if class_names and len(labels) and int(labels.max()) < len(own) else None
    if order is None or order == list(range(len(own))):
        return batches.images, labels, []
    return batches.images, np.array(order, dtype=np.int64)[labels], ["classes numbered by their names"]


def _same_classes(own: Sequence[str], class_names: Sequence[str], where: str) -> list[int] | None:
    """Where the data set's own classes stand among the classifier's; None where they are others."""
    try:
        found = match_classes(own, class_names, where)
    except ConfigError:
        return None
    return [found[name] for name in own] if len(set(found.values())) == len(own) else None


def _possible_names(name: str) -> list[str]:
    idx_names = idx.possible_names(name)
    batches = [f"{batch}{ending}" for batch in _CIFAR_BATCHES for ending in ("", ".bin")] if role_of(name) else []
    return [*idx_names, *(f"raw/{file}" for file in idx_names), *_npy_names(name), f"{name}.npz", *batches, *cifar.NAME_FILES]


def _npy_names(split: str) -> list[str]:
    whats = [cased for what in arrays.WHATS for cased in dict.fromkeys((what, what.capitalize()))]
    return [f"{name}.npy" for what in whats for name in (f"{what}_{split}", f"{split}_{what}")]


def _npy_beside(name: str) -> list[str]:
    """What the other array of a pair may be called."""
    stem = name[: -len(".npy")]
    return [f"{other}{name[len(stem) :]}" for other in arrays.names_beside(stem)]


def _last(name: str) -> str:
    return name.replace("-", "_").rpartition("_")[2].lower()


def _noted(part: DataPart, note: str) -> DataPart:
    return DataPart(part.name, part.kind, part.files, part.folder, part.beside, (*part.notes, note))
