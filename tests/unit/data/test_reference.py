"""References to sets: they lead to the one set that they name, or say that it is another or gone."""

import json
from pathlib import Path

import pytest

from distillery.data.manifest import MANIFEST
from distillery.data.reference import REFERENCE, SetReference, find_set, open_reference, open_set, read_reference, write_reference
from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.provenance import Provenance, dump_json, stamp
from distillery.storage import FolderStore
from sets import header, publish


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "set")


def test_a_reference_leads_to_its_set(store: FolderStore, tmp_path: Path) -> None:
    reference = publish(store, 2)
    write_reference(tmp_path / "artifact", reference)
    assert read_reference(tmp_path / "artifact") == reference
    assert open_reference(tmp_path / "artifact", header().teacher_sha256).digest == reference.sha256
    assert (tmp_path / "artifact" / MANIFEST).read_bytes() == store.read(MANIFEST)
    document = json.loads((tmp_path / "artifact" / REFERENCE).read_bytes())
    assert (document["uri"], document["sha256"]) == (reference.uri, reference.sha256)
    with pytest.raises(CheckpointMismatchError):
        open_reference(tmp_path / "artifact", "123")


def test_a_reference_notices_another_or_a_lost_set(store: FolderStore, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    write_reference(folder, publish(store, 2))
    store.delete(MANIFEST)
    with pytest.raises(MissingResourceError, match="No synthetic set is published"):
        open_reference(folder)
    publish(store, 1)
    with pytest.raises(StoreError, match="as referred to"):
        open_reference(folder)
    with pytest.raises(StoreError, match="as referred to"):
        write_reference(tmp_path / "new", SetReference(uri=store.uri, sha256="0"))


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"{", StoreError, "is not a JSON object"),
        (b"{}", CheckpointMismatchError, "names no format"),
        (b'{"format": "distillery-set-reference", "version": 3}', CheckpointMismatchError, "upgrade Distillery"),
        (
            dump_json(stamp("distillery-set-reference", 1, Provenance(code_version="c"), {"uri": "x"})),
            StoreError,
            "its field 'sha256' is missing or wrong",
        ),
    ],
)
def test_a_damaged_reference_is_refused(tmp_path: Path, data: bytes, kind: type[Exception], words: str) -> None:
    with pytest.raises(MissingResourceError, match=REFERENCE):
        read_reference(tmp_path)
    (tmp_path / REFERENCE).write_bytes(data)
    with pytest.raises(kind, match=words):
        read_reference(tmp_path)


@pytest.mark.parametrize("name", [MANIFEST, REFERENCE])
@pytest.mark.parametrize("data", [b'{"name": "web app"}', b"[1, 2]", b"no json"])
def test_a_file_of_others_that_is_called_like_ours_says_how_to_get_at_the_pictures(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((CheckpointMismatchError, StoreError), match=f"; or, where the folder holds pictures, move its {name} out of it."):
        find_set(str(tmp_path))


def test_a_damaged_set_is_told_without_that(store: FolderStore) -> None:
    publish(store, 1)
    store.write(MANIFEST, store.read(MANIFEST).replace(b'"holdout": ', b'"holdout": 1'))
    with pytest.raises(StoreError, match="damaged") as caught:
        find_set(store.uri)
    assert "pictures" not in str(caught.value)


def test_a_set_is_opened_by_its_folder_its_manifest_or_a_reference(store: FolderStore, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    with pytest.raises(MissingResourceError, match="No synthetic set is published"):
        open_set(store.uri)
    assert find_set(store.uri) is None
    reference = publish(store, 1)
    write_reference(folder, reference)
    for uri in (store.uri, f"{store.uri}/{MANIFEST}", str(folder), str(folder / REFERENCE)):
        found = find_set(uri)
        assert found is not None
        assert open_set(uri).digest == found.digest == reference.sha256
        with pytest.raises(CheckpointMismatchError, match="was made with the teacher"):
            open_set(uri, "123")
