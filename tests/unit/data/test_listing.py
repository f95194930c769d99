"""What is data in a folder, and what is left out and said."""

import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from distillery.data.listing import (
    COPY,
    DEAD_LINK,
    HIDDEN,
    LOOP,
    NO_PICTURE,
    SPECIAL,
    LeftOut,
    choose_pictures,
    is_hidden,
    list_files,
    shown,
)
from distillery.storage import FolderStore, MemoryStore


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


HIDDEN_NAMES = [
    ".DS_Store",
    "cat/Thumbs.db",
    "cat/.ipynb_checkpoints/a-checkpoint.png",
    "__MACOSX/cat/._a.png",
    "dog/._b.png",
    "dog/desktop.ini",
    "@eaDir/a.png/SYNO.png",
]


@pytest.mark.parametrize("name", HIDDEN_NAMES)
def test_what_file_managers_hide_is_hidden_at_any_depth(name: str, tmp_path: Path) -> None:
    assert is_hidden(name)
    put(tmp_path, name, "cat/a.png")
    store = MemoryStore()
    for key in (name, "cat/a.png"):
        store.write(key, b"x")
    for found in (list_files(FolderStore(tmp_path)), list_files(store)):
        assert list(found.keys) == ["cat/a.png"]
        assert found.left_out.files == {HIDDEN: [name]}


def test_a_hidden_folder_may_be_the_data_set_itself(tmp_path: Path) -> None:
    put(tmp_path, ".cache/cat/a.png")
    assert list(list_files(FolderStore(tmp_path / ".cache")).keys) == ["cat/a.png"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/a.png", "data/dog/b.png")
    data = tmp_path / "data"
    (data / "cat").symlink_to(tmp_path / "elsewhere")
    (data / "dog" / "c.png").symlink_to(data / "dog" / "b.png")
    (data / "dog" / "up").symlink_to(data)
    (data / "dog" / "self").symlink_to(data / "dog" / "self")
    (data / "dog" / "gone.png").symlink_to(tmp_path / "nowhere")
    found = list_files(FolderStore(data))
    assert list(found.keys) == ["cat/a.png", "dog/b.png", "dog/c.png"]
    assert found.left_out.files == {DEAD_LINK: ["dog/gone.png", "dog/self"], LOOP: ["dog/up"]}


def test_a_pipe_is_left_out_and_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png")
    os.mkfifo(tmp_path / "cat" / "b.png")
    found = list_files(FolderStore(tmp_path))
    assert list(found.keys) == ["cat/a.png"]
    assert found.left_out.files == {SPECIAL: ["cat/b.png"]}


def test_all_files_that_find_counts_are_data_or_left_out(tmp_path: Path) -> None:
    put(tmp_path, *HIDDEN_NAMES, "cat/a.PNG", "cat/b.txt", "dog/c", "dog/deep/er/d.tif", "e.png", "leer/.x")
    (tmp_path / "cat" / "link").symlink_to(tmp_path / "dog" / "deep")
    listing = list_files(FolderStore(tmp_path))
    counted = subprocess.run(["find", "-L", str(tmp_path), "-type", "f"], capture_output=True, check=True).stdout.count(b"\n")
    assert len(listing.keys) + len(listing.left_out) == counted
    assert list(listing.folders) == ["cat", "cat/link", "cat/link/er", "dog", "dog/deep", "dog/deep/er", "leer"]


def test_pictures_are_chosen_by_ending_or_first_bytes(tmp_path: Path) -> None:
    names = ["a.TIF", "b.txt", "c", "d", "d.png.bak", "d.png~"]
    put(tmp_path, "a.TIF", "b.txt", "c")
    Image.new("L", (2, 2)).save(tmp_path / "d", "PNG")
    store = MemoryStore()
    for name in names[4:]:
        (tmp_path / name).write_bytes((tmp_path / "d").read_bytes())
    for name in names:
        store.write(name, (tmp_path / name).read_bytes())
    for place in (FolderStore(tmp_path), store):
        left_out = LeftOut()
        assert choose_pictures(place, names, left_out) == ["a.TIF", "d"]
        assert left_out.files == {NO_PICTURE: ["b.txt", "c"], COPY: ["d.png.bak", "d.png~"]}


def test_what_is_left_out_is_counted_whole_and_named_in_part() -> None:
    left_out = LeftOut()
    assert (len(left_out), left_out.words()) == (0, "")
    for number in range(1200):
        left_out.add(NO_PICTURE, f"{number}.txt")
    left_out.add(HIDDEN, ".x")
    left_out.add(DEAD_LINK, "y")
    assert len(left_out) == 1202
    assert left_out.words() == (
        "skipped 1,200 files that are no pictures ('0.txt', '1.txt', '2.txt' and 1,197 more), 1 hidden file ('.x') and "
        "1 link that leads nowhere ('y')"
    )


def test_a_name_that_is_no_utf8_can_be_printed() -> None:
    assert shown(os.fsdecode(b"caf\xe9.png")).encode() == b"caf\\xe9.png"
    assert shown("猫.png") == "猫.png"
