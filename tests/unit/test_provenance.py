"""Formats, versions and the hash of the code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distillery
from distillery import provenance
from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.provenance import (
    Provenance,
    check_format,
    code_version,
    dump_json,
    hash_sources,
    load_json,
    sha256_bytes,
    sha256_file,
    stamp,
)

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def a_block() -> Provenance:
    return Provenance(inputs={"teacher": "ab"}, config={"b": 1, "a": 2.5}, seeds={"run": 3}, code_version="c0de")


def test_sha256_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "file") == SHA256_OF_ABC


def test_sha256_of_a_file_larger_than_a_piece(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8193  # above two pieces, and no multiple of one
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data)


@pytest.mark.parametrize("name", ["absent", "."])
def test_sha256_of_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingResourceError, match="There is no file"):
        sha256_file(tmp_path / name)


def test_stamp_frames_the_fields() -> None:
    document = stamp("distillery-x", 2, a_block(), {"a": [1]})
    assert document == {"format": "distillery-x", "version": 2, "a": [1], "provenance": a_block().to_json()}
    assert next(iter(document)) == "format"


def test_stamp_refuses_to_overwrite_its_header() -> None:
    with pytest.raises(AssertionError):
        stamp("distillery-x", 1, a_block(), {"version": 7})


def test_check_format_accepts_old_and_current() -> None:
    for version in (1, 2):
        check_format({"format": "distillery-x", "version": version}, "distillery-x", 2, "here")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"format": "distillery-y", "version": 1}, "x.json is not a distillery-x file .it says 'distillery-y'"),
        ({"version": 1}, "names no format"),
        ([1, 2], "names no format"),
        ({"format": "distillery-x", "version": 3}, "is distillery-x version 3, but this Distillery reads up to version 2: upgrade"),
        ({"format": "distillery-x", "version": "2"}, "has version '2'"),
        ({"format": "distillery-x", "version": True}, "has version True"),
        ({"format": "distillery-x", "version": 0}, "has version 0"),
        ({"format": "distillery-x"}, "has version None"),
    ],
)
def test_check_format_refuses_in_one_sentence(document: object, words: str) -> None:
    with pytest.raises(CheckpointMismatchError, match=words) as caught:
        check_format(document, "distillery-x", 2, "x.json")
    assert "\n" not in str(caught.value)


def test_dump_json_does_not_depend_on_order() -> None:
    assert dump_json({"b": 1, "a": {"d": 1, "c": "ü"}}) == dump_json({"a": {"c": "ü", "d": 1}, "b": 1})
    assert dump_json({"b": 1, "a": 2}) == b'{\n  "a": 2,\n  "b": 1\n}\n'
    assert json.loads(dump_json(a_block().to_json())) == a_block().to_json()


def test_dump_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": float("nan")})


@pytest.mark.parametrize("data", [b"", b"[1]", b'{"a": ', b"\xff\xfe"])
def test_load_json_names_the_damaged_file(data: bytes) -> None:
    with pytest.raises(StoreError, match="^the file is not a JSON object"):
        load_json(data, "the file")


def test_code_version_is_the_same_in_another_process() -> None:
    command = "from distillery.provenance import code_version; print(code_version())"
    source = str(Path(distillery.__file__).parents[1])
    other = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, env={"PYTHONPATH": source})
    assert other.stdout.strip() == code_version() == hash_sources(Path(provenance.__file__).parent)


def test_hash_of_sources_sees_every_edit_and_nothing_else(tmp_path: Path) -> None:
    first = tmp_path / "first"
    (first / "recipes").mkdir(parents=True)
    (first / "a.py").write_text("x = 1\n")
    (first / "recipes" / "r.yaml").write_text("k: 1\n")
    second = tmp_path / "elsewhere"
    shutil.copytree(first, second)
    before = hash_sources(first)
    assert hash_sources(second) == before
    (first / "notes.txt").write_text("not code")
    (first / "__pycache__").mkdir()
    (first / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"1")
    assert hash_sources(first) == before
    (first / "recipes" / "r.yaml").write_text("k: 2\n")
    (second / "a.py").rename(second / "b.py")
    assert len({before, hash_sources(first), hash_sources(second)}) == 3


def test_hash_of_sources_does_not_depend_on_the_order_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.py", "a.py", "c.yaml"):
        (tmp_path / name).write_text(name)
    found = sorted(tmp_path.rglob("*"))
    hashes = set()
    for order in (found, found[::-1]):
        monkeypatch.setattr(Path, "rglob", lambda *_, order=order: iter(order))
        hashes.add(hash_sources(tmp_path))
    assert len(hashes) == 1


def test_hash_of_sources_keeps_names_apart_from_contents(tmp_path: Path) -> None:
    for folder, name, content in (("one", "a.py", "x.pyB"), ("two", "a.pyx.py", "B")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    assert hash_sources(tmp_path / "one") != hash_sources(tmp_path / "two")
