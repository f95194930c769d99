"""Class names as people write them: in files of any editor, and as names of folders."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from distillery.data.export import folder_names
from distillery.errors import ConfigError, MissingResourceError, StoreError

_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""What editors begin a file with to say how it is encoded; the longer ones first, for one begins as a shorter one does."""
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"
_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_APART = re.compile(r"[\W_]+")
_LISTED = 12


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ConfigError: fewer than two, an empty one, or one twice.
    """
    names = tuple(str(name) for name in class_names)
    if len(names) < 2:
        raise ConfigError(f"{len(names)} class names were given, a classifier has at least 2: name every class.")
    twice = next((name for name, count in Counter(map(tidy, names)).items() if count > 1), None)
    if twice is not None or not all(map(tidy, names)):
        raise ConfigError(f"The class name {twice or ''!r} is empty or stands there twice: give each class a name of its own.")
    return names


def read_class_names(text: str) -> tuple[str, ...]:
    """Class names as the command line takes them.

    Args:
        text: a file with one name a line, or names between commas, or a number N for the names 0 to N-1.

    Raises:
        ConfigError: fewer than two names, an empty one, one twice, or a file that is no text.
        MissingResourceError: a file that is not there.
        StoreError: a file that cannot be read.
    """
    if text.isdecimal():
        return check_class_names([str(number) for number in range(int(text))])
    path = Path(text).expanduser()
    if path.is_file():
        return check_class_names(_lines(path))
    if "," not in text:
        what = f"{text!r} is a folder, no file of class names" if path.is_dir() else f"There is no file of class names {text!r}"
        raise MissingResourceError(f"{what}: give a file, names between commas, or how many classes there are.")
    return check_class_names([tidy(name) for name in text.split(",")])


def decode_text(data: bytes, name: str) -> str:
    """A text file as any editor writes it: UTF-8 with or without its mark, UTF-16 and UTF-32 with theirs.

    Args:
        data: the file.
        name: of the file, for the error.

    Raises:
        ConfigError: another encoding, or no text.
    """
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError(f"{name!r} is no UTF-8 text: save it as UTF-8 in an editor.")
    return text


def tidy(name: str) -> str:
    """A name without what nobody sees: marks, blanks around it, several blanks in a row, and two ways to write one letter."""
    return " ".join(unicodedata.normalize("NFC", name).translate(dict.fromkeys(map(ord, _INVISIBLE))).split())


def match_classes(names: Sequence[str], class_names: Sequence[str], where: str) -> dict[str, int]:
    """Which class each name is, as people read names.

    A name is a class's if it is equal; else if it looks equal (Unicode forms, blanks); else if it differs in upper and lower case; else
    if it is the folder that `export` writes for the class; else if letters and digits are the same. What could be two classes is none.
    Numbers are compared as numbers; where the names are numbers and no class's name is one, they are the labels themselves.

    Args:
        names: of folders, or of a data set's own classes.
        class_names: the classifier's; without them numbers are labels, and other names are numbered in their order.
        where: the data, for the error.

    Raises:
        ConfigError: a name that is no class, or could be two.
    """
    if all(name.isdecimal() for name in names) and not set(names) <= set(class_names):
        if not all(name.isdecimal() for name in class_names) or not class_names:
            return {name: int(name) for name in names}
        return _by(names, class_names, [_as_number], where)
    return _by(names, class_names or sorted(names), _WAYS, where)


def _as_number(name: str) -> str:
    return str(int(name))


def _folded(name: str) -> str:
    return tidy(name).casefold()


def _letters(name: str) -> str:
    return _APART.sub(" ", unicodedata.normalize("NFKC", name).casefold()).strip()


_WAYS: list[Callable[[str], str]] = [str, tidy, _folded, _letters]


def _by(names: Sequence[str], class_names: Sequence[str], ways: Sequence[Callable[[str], str]], where: str) -> dict[str, int]:
    tables = [(way, _table(class_names, way)) for way in ways]
    exported = {folder: [index] for index, folder in enumerate(folder_names(class_names, len(class_names)))}
    tables.insert(3, (str, exported))
    numbers = {}
    for name in names:
        hits = next((found for way, table in tables if (found := table.get(way(name), []))), [])
        if len(hits) > 1:
            both = " or ".join(repr(class_names[index]) for index in hits[:2])
            raise ConfigError(f"{where!r} has a folder {name!r}, which could be the class {both}: rename it to the one that it is.")
        if not hits:
            raise ConfigError(f"{where!r} has a folder {name!r}, which is no class: use {_some_of(class_names)}.")
        numbers[name] = hits[0]
    return numbers


def _table(class_names: Sequence[str], way: Callable[[str], str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for index, name in enumerate(class_names):
        if key := way(name):
            table.setdefault(key, []).append(index)
    return table


def _some_of(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_LISTED])) + ("..." if len(names) > _LISTED else "")


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"The file of class names {str(path)!r} cannot be read ({error.strerror}): check its permissions.") from None
    lines = [tidy(line) for line in _LINE_ENDS.split(decode_text(data, str(path)))]
    return [line for line in lines if line]
