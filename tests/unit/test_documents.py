"""One way to write and read every document: any changed byte is one sentence, and old documents without a hash are read as before."""

import json
from typing import Any

import pytest

from distillery.config import Config
from distillery.documents import SEAL, Format, seal
from distillery.errors import CheckpointMismatchError, DistilleryError, StoreError
from distillery.provenance import Provenance, dump_json, sha256_bytes, stamp

THING = Format("distillery-thing", 2, "make the thing again")
ORIGIN = Provenance(inputs={"teacher": "ab"}, config={SEAL: "0" * 64, "b": 1}, seeds={"run": 3}, code_version="c0de")
FIELDS: dict[str, Any] = {"a": [1, 2.5], "title": f'\n  "{SEAL}": "' + "0" * 64, "ç": {SEAL: "0" * 64}}


class Thing(Config):
    """What a thing says."""

    number: int
    name: str = "x"


def test_what_is_written_is_read() -> None:
    data = THING.write(ORIGIN, FIELDS)
    document = THING.read(data, "here")
    assert (document.version, document.provenance, document.fields) == (2, ORIGIN, FIELDS)
    assert data == THING.write(ORIGIN, FIELDS)
    assert json.loads(data)["format"] == "distillery-thing"


def test_the_seal_is_the_hash_of_the_file_with_zeros_in_its_place() -> None:
    data = THING.write(ORIGIN, {"a": 1})
    said = json.loads(data)[SEAL]
    assert data.count(said.encode()) == 1
    assert sha256_bytes(data.replace(said.encode(), b"0" * 64)) == said


def test_every_changed_byte_is_one_sentence() -> None:
    data = THING.write(ORIGIN, FIELDS)
    for position in range(len(data)):
        for mask in (1, 16, 255):
            with pytest.raises(DistilleryError) as refused:
                THING.read(data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :], "runs/1/thing.json")
            assert "runs/1/thing.json" in str(refused.value)
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\n",
        lambda data: data[:40] + data[20:],
        lambda data: data.replace(b"  ", b" ", 1),
        lambda data: b"\xff\xfe" + data.decode().encode("utf-16-le"),
        lambda data: json.dumps(json.loads(data)).encode(),
        lambda data: b'{"a":' + b"[" * 100_000,
        lambda data: data.replace(b'"document_sha256"', b'"document-sha256"'),
        lambda data: b"[]",
        lambda data: b"null",
    ],
)
def test_other_damage_is_one_sentence(damage: Any) -> None:
    data = damage(THING.write(ORIGIN, {"a": 1}))
    with pytest.raises(StoreError, match="^here is (damaged|not a JSON object)") as refused:
        THING.read(data, "here")
    assert "again" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_advice_is_in_the_sentence() -> None:
    with pytest.raises(StoreError, match="make the thing again"):
        THING.read(THING.write(ORIGIN, {"a": 1}).replace(b"1", b"2", 1), "here")


def test_a_document_of_an_old_version_is_read_as_it_was_written() -> None:
    old = stamp("distillery-thing", 1, ORIGIN, {"number": 3})
    assert THING.read(dump_json(old), "here").parse(Thing) == Thing(number=3)
    assert THING.read(json.dumps(old).encode(), "here").version == 1


def test_an_old_version_is_no_way_around_the_seal() -> None:
    data = THING.write(ORIGIN, {"number": 3})
    with pytest.raises(StoreError, match="damaged"):
        THING.read(data.replace(b'"version": 2', b'"version": 1'), "here")
    unsealed = {name: value for name, value in json.loads(data).items() if name != SEAL}
    with pytest.raises(StoreError, match="damaged"):
        THING.read(dump_json(unsealed), "here")


def test_another_format_and_a_newer_version_are_refused() -> None:
    data = THING.write(ORIGIN, {"number": 3})
    with pytest.raises(CheckpointMismatchError, match="distillery-other"):
        Format("distillery-other", 2).read(data, "here")
    with pytest.raises(CheckpointMismatchError, match="version 2"):
        Format("distillery-thing", 1).read(data, "here")


@pytest.mark.parametrize("block", [None, [], "x", {}, {"inputs": {}}, {"code_version": 7}, {"code_version": "c", "more": 1}])
def test_a_provenance_that_is_none_is_one_sentence(block: object) -> None:
    for version in (1, 2):
        document = {"format": "distillery-thing", "version": version, "number": 3, "provenance": block}
        with pytest.raises(StoreError, match="its provenance is missing or wrong"):
            THING.read(seal(document) if version == 2 else dump_json(document), "here")


@pytest.mark.parametrize(("fields", "named"), [({}, "'number'"), ({"number": "x"}, "'number'"), ({"number": 1, "other": 2}, "'other'")])
def test_fields_that_do_not_fit_are_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(StoreError, match=f"here is damaged .its field {named} is missing or wrong.: make the thing again"):
        THING.read(THING.write(ORIGIN, fields), "here").parse(Thing)


def test_fields_may_not_take_the_place_of_the_frame() -> None:
    for name in ("format", "version", "provenance"):
        with pytest.raises(AssertionError):
            THING.write(ORIGIN, {name: 1})
    with pytest.raises(AssertionError):
        THING.write(ORIGIN, {SEAL: "x"})
