"""Class names as people write them: in files of any editor, and as names of folders."""

import unicodedata
from pathlib import Path

import pytest

from distillery.data.class_names import check_class_names, decode_text, match_classes, read_class_names
from distillery.data.export import folder_names
from distillery.errors import ConfigError, MissingResourceError

CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
NAMES = ("cat", CAFE, "猫")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_file_of_any_editor(encoding: str, ends: str, tmp_path: Path) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    (tmp_path / "names.txt").write_bytes(mark + ends.join([*NAMES, "", " ", ""]).encode(encoding))
    assert read_class_names(str(tmp_path / "names.txt")) == NAMES


def test_only_ends_of_lines_end_a_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\x0bfish\n\N{LINE SEPARATOR}dog\N{NO-BREAK SPACE} house \n", encoding="utf-8")
    assert read_class_names(str(tmp_path / "names.txt")) == ("cat fish", "dog house")


@pytest.mark.parametrize(
    "data", ["cat\ncaf\xe9\n".encode("latin-1"), b"\x89PNG\r\n\x1a\n\0\0", b"cat\0dog", "cat\ndog".encode("utf-16-le")]
)
def test_what_is_no_text_is_said(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(data)
    with pytest.raises(ConfigError, match=r"names.txt' is no UTF-8 text: save it as UTF-8"):
        read_class_names(str(tmp_path / "names.txt"))


def test_a_folder_is_no_file_of_names(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="is a folder, no file of class names"):
        read_class_names(str(tmp_path))


def test_text_without_a_mark_is_utf8() -> None:
    assert decode_text("猫".encode(), "x") == "猫"


@pytest.mark.parametrize("pair", [("cat", "cat"), (CAFE, unicodedata.normalize("NFD", CAFE)), ("cat", " cat "), ("a b", "a  b")])
def test_names_that_look_the_same_are_the_same(pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="stands there twice"):
        check_class_names(pair)


@pytest.mark.parametrize("names", [("cat", ""), ("cat", " "), ("cat", "\ufeff")])
def test_a_name_that_nobody_sees_is_empty(names: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="is empty or stands there twice"):
        check_class_names(names)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("cat", "cat"),
        (unicodedata.normalize("NFD", CAFE), CAFE),
        (CAFE, unicodedata.normalize("NFD", CAFE)),
        (" cat ", "cat"),
        ("CAT", "cat"),
        ("Ankle_boot", "Ankle boot"),
        ("ankle-boot", "Ankle boot"),
        ("T-shirt_top", "T-shirt/top"),
        ("STRASSE", "straße"),
        ("\N{FULLWIDTH LATIN SMALL LETTER C}at", "cat"),
        ("07", "7"),
    ],
)
def test_names_compare_as_people_read_them(folder: str, name: str) -> None:
    other = "9" if name == "7" else "other"
    assert match_classes([folder], [other, name], "data") == {folder: 1}


def test_the_closest_way_to_read_a_name_wins() -> None:
    assert match_classes(["cat", "CAT", "Cat"], ["Cat", "cat", "CAT"], "data") == {"cat": 1, "CAT": 2, "Cat": 0}


def test_what_could_be_two_classes_is_none() -> None:
    with pytest.raises(ConfigError, match="has a folder 'CAT', which could be the class 'cat' or 'Cat'"):
        match_classes(["CAT"], ["cat", "Cat"], "data")


def test_every_folder_of_an_export_is_its_class() -> None:
    names = ["a/b", "a:b", "A/B", "cat", "", "..", "dog."][:4] + ["x?", "dog."]
    folders = folder_names(names, len(names))
    assert match_classes(folders, names, "data") == {folder: index for index, folder in enumerate(folders)}


def test_numbers_compare_as_numbers() -> None:
    assert match_classes(["01", "10", "2"], [str(number) for number in range(1, 11)], "data") == {"01": 0, "10": 9, "2": 1}
    assert match_classes(["00", "01"], ["cat", "dog"], "data") == {"00": 0, "01": 1}
    with pytest.raises(ConfigError, match="has a folder '0', which is no class: use '1', '2'"):
        match_classes(["0", "1"], ["1", "2"], "data")


def test_matching_ten_thousand_classes_looks_at_each_name_a_few_times() -> None:
    looked = 0

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal looked
            looked += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Counted(f"class {number}") for number in range(2_000)]
    assert match_classes(names, names, "data")["class 1999"] == 1999
    check_class_names(names)
    assert looked < 20 * len(names)
