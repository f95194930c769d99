"""Bundles: whole or not at all, equal bytes for equal work, verified on the way in."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from distillery.documents import seal
from distillery.errors import CheckpointMismatchError, ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.models import bundle
from distillery.models.bundle import fetch_bundle, load_classifier, read_bundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, dump_json, sha256_bytes
from distillery.storage import MemoryStore
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.4,))
WRN = Architecture(name="wrn_10_1", arguments={"base_width": 2})
ORIGIN = Provenance(inputs={"checkpoint": "0" * 64}, code_version="1" * 64)


def _classifier(architecture: Architecture = WRN, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    classifier = Classifier(build_network(architecture, SPEC, 3), SPEC, ("a", "b", "ç"))
    classifier.train()(torch.rand(16, 1, 8, 8))  # moves BatchNorm's buffers off their start
    return classifier.eval()


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_round_trip_is_bit_equal(tmp_path: Path) -> None:
    classifier = _classifier()
    sha256 = save_classifier(tmp_path / "b", classifier, WRN, ORIGIN)
    loaded = load_classifier(tmp_path / "b", sha256)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in classifier.state_dict().items())
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(classifier(images), loaded.eval()(images))
    assert (loaded.spec, loaded.class_names) == (SPEC, ("a", "b", "ç"))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_equal_classifiers_give_equal_bytes_whatever_their_memory_order(tmp_path: Path) -> None:
    first = save_classifier(tmp_path / "1", _classifier(), WRN, ORIGIN)
    second = save_classifier(tmp_path / "2", _classifier().to(memory_format=torch.channels_last), WRN, ORIGIN)  # type: ignore[call-overload]
    assert first == second
    assert _tree(tmp_path / "1") == _tree(tmp_path / "2")
    assert first != save_classifier(tmp_path / "3", _classifier(seed=1), WRN, ORIGIN)
    assert sha256_bytes((tmp_path / "1" / "bundle.json").read_bytes()) == first


def test_document_says_everything(tmp_path: Path) -> None:
    sha256 = save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    document = json.loads((tmp_path / "b" / "bundle.json").read_bytes())
    assert document["format"] == "distillery-bundle"
    assert document["version"] == 3
    assert document["provenance"]["inputs"] == {"checkpoint": "0" * 64}
    info, found = read_bundle(tmp_path / "b")
    assert found == sha256
    assert (info.architecture, info.spec, info.class_names, info.num_classes) == (WRN, SPEC, ("a", "b", "ç"), 3)
    assert info.has_batchnorm
    assert info.parameters == sum(p.numel() for p in _classifier().parameters())
    assert info.weights_bytes == (tmp_path / "b" / "weights.safetensors").stat().st_size


def test_teacher_without_batchnorm_is_accepted_and_says_so(tmp_path: Path) -> None:
    lenet = Architecture(name="lenet5_half")
    save_classifier(tmp_path / "b", _classifier(lenet), lenet, ORIGIN)
    assert not read_bundle(tmp_path / "b")[0].has_batchnorm
    load_classifier(tmp_path / "b")


def test_tied_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> nn.Module:
        shared = nn.Linear(64, 64)
        return nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, nn.Linear(64, 3))

    monkeypatch.setattr(bundle, "build_network", build)
    classifier = Classifier(build(), SPEC, ("a", "b", "c"))
    save_classifier(tmp_path / "b", classifier, Architecture(name="mine:tied"), ORIGIN)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_classifier(tmp_path / "b")(images), classifier(images))


@pytest.mark.parametrize("position", [0, 30, -1])
def test_damaged_weights_fail_their_hash(tmp_path: Path, position: int) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    path = tmp_path / "b" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"weights\.safetensors is damaged"):
        load_classifier(tmp_path / "b")


def test_truncated_weights_fail_their_hash(tmp_path: Path) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    path = tmp_path / "b" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StoreError, match="bundle.json promises"):
        load_classifier(tmp_path / "b")


def _edit(folder: Path, **fields: object) -> None:
    path = folder / "bundle.json"
    path.write_bytes(seal({**json.loads(path.read_bytes()), **fields}))


def test_newer_version_and_other_format_are_refused(tmp_path: Path) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    _edit(tmp_path / "b", version=5)
    with pytest.raises(CheckpointMismatchError, match="version 5"):
        load_classifier(tmp_path / "b")
    _edit(tmp_path / "b", version=3, format="distillery-set")
    with pytest.raises(CheckpointMismatchError, match="distillery-bundle"):
        read_bundle(tmp_path / "b")


def test_another_bundle_than_asked_for_is_refused(tmp_path: Path) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    with pytest.raises(CheckpointMismatchError, match="was asked for"):
        load_classifier(tmp_path / "b", "f" * 64)


def test_weights_that_no_longer_fit_are_refused(tmp_path: Path) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    _edit(tmp_path / "b", architecture={"name": "wrn_10_1", "arguments": {"base_width": 3}})
    with pytest.raises(CheckpointMismatchError, match="do not fit wrn_10_1"):
        load_classifier(tmp_path / "b")


def test_a_changed_byte_anywhere_in_the_document_is_refused(tmp_path: Path) -> None:
    classifier = Classifier(_classifier().network, SPEC, ("0" * 64, '\n  "document_sha256": "' + "0" * 64, "ç"))
    architecture = Architecture(name="wrn_10_1", arguments={"document_sha256": "0" * 64})  # stands before the seal, and is none
    save_classifier(tmp_path / "b", classifier, architecture, ORIGIN)
    assert json.loads((tmp_path / "b" / "bundle.json").read_bytes())["architecture"]["arguments"] == architecture.arguments
    path = tmp_path / "b" / "bundle.json"
    whole = path.read_bytes()
    read_bundle(tmp_path / "b")
    for position in range(len(whole)):
        for bit in (1, 16):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
            with pytest.raises(DistilleryError) as refused:
                read_bundle(tmp_path / "b")
            assert "\n" not in str(refused.value)
    path.write_bytes(whole.replace(b"}", b"} ", 1))
    with pytest.raises(StoreError, match="its bytes fail the sha256 that it says of itself"):
        read_bundle(tmp_path / "b")


def test_a_bundle_of_the_first_version_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    path = tmp_path / "b" / "bundle.json"
    document = {**json.loads(path.read_bytes()), "version": 1}
    path.write_bytes(dump_json(document))
    with pytest.raises(StoreError, match="document_sha256"):  # no bundle of version 1 has one
        read_bundle(tmp_path / "b")
    del document["document_sha256"]
    path.write_bytes(dump_json(document))
    loaded = load_classifier(tmp_path / "b", sha256_bytes(dump_json(document)))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in _classifier().state_dict().items())
    path.write_bytes(dump_json({**document, "version": 2}))
    with pytest.raises(StoreError, match="damaged"):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_damaged_document_is_a_store_error(tmp_path: Path, content: bytes) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    (tmp_path / "b" / "bundle.json").write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        read_bundle(tmp_path / "b")


def test_missing_or_wrong_field_is_named(tmp_path: Path) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    _edit(tmp_path / "b", spec={})
    with pytest.raises(StoreError, match=r"spec\.channels"):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_missing_bundle(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingResourceError, match="no bundle"):
        read_bundle(tmp_path / name)


def test_unwritable_folder_and_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years")
    for target in ("file", "file/below", "full"):
        with pytest.raises(StoreError) as caught:
            save_classifier(tmp_path / target, _classifier(), WRN, ORIGIN)
        assert target.split("/")[0] in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years"


def test_bundle_is_replaced_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    second = save_classifier(tmp_path / "b", _classifier(seed=1), WRN, ORIGIN)
    load_classifier(tmp_path / "b", second)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_equal_bundle_is_adopted_untouched(tmp_path: Path) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    before = (tmp_path / "b").stat().st_ino
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    assert (tmp_path / "b").stat().st_ino == before


@pytest.mark.parametrize("call", ["_write", "_flush", "_move"])
def test_interrupted_write_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    first = save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)

    def stop(*_: object, **__: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(bundle, call, stop)
    with pytest.raises(SystemExit):
        save_classifier(tmp_path / "b", _classifier(seed=1), WRN, ORIGIN)
    load_classifier(tmp_path / "b", first)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_interrupt_between_the_two_renames_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    rename = Path.rename

    def stop_at_second(self: Path, target: Path) -> Path:
        if self.name.startswith(".tmp-") and not self.name.endswith("-old"):
            raise SystemExit(143)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stop_at_second)
    with pytest.raises(SystemExit):
        save_classifier(tmp_path / "b", _classifier(seed=1), WRN, ORIGIN)
    load_classifier(tmp_path / "b", first)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None:
            pass

    classifier = Classifier(nn.Sequential(nn.Flatten(), Odd(64, 3)), SPEC, ("a", "b", "c"))
    with pytest.raises(ConfigError, match="_extra_state"):
        save_classifier(tmp_path / "b", classifier, Architecture(name="mine:odd"), ORIGIN)


def test_local_bundles_are_fetched_in_place(tmp_path: Path) -> None:
    assert fetch_bundle(str(tmp_path / "b"), tmp_path / "cache") == tmp_path / "b"
    assert fetch_bundle(f"file://{tmp_path}/b%20c", tmp_path / "cache") == tmp_path / "b c"
    assert not (tmp_path / "cache").exists()


def test_remote_bundle_is_copied_once_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    store = MemoryStore()
    for name, data in _tree(tmp_path / "b").items():
        store.write(name, data)
    monkeypatch.setattr(bundle, "open_store", lambda _: store)
    fetched = fetch_bundle("memory://teacher", tmp_path / "cache")
    assert fetched == tmp_path / "cache" / sha256
    load_classifier(fetched, sha256)
    store.delete("weights.safetensors")
    assert fetch_bundle("memory://teacher", tmp_path / "cache") == fetched
    store.write("weights.safetensors", (fetched / "weights.safetensors").read_bytes())
    for name in ("weights.safetensors", "bundle.json"):  # a copy that was damaged is fetched again
        whole = (fetched / name).read_bytes()
        (fetched / name).write_bytes(whole[:-9] + b"x" + whole[-8:])
        assert fetch_bundle("memory://teacher", tmp_path / "cache") == fetched
        load_classifier(fetched, sha256)
    store.write("weights.safetensors", b"damaged")
    with pytest.raises(StoreError, match="damaged"):
        fetch_bundle("memory://teacher", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_unsupported_uri_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gopher"):
        fetch_bundle("gopher://bucket/teacher", tmp_path)


def test_the_order_in_memory_travels_with_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "build_network", lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    classifier = Classifier(bundle.build_network(), SPEC, ("a", "b", "c"), "contiguous")  # type: ignore[call-arg]
    save_classifier(tmp_path / "b", classifier, Architecture(name="mine:flat"), ORIGIN)
    assert read_bundle(tmp_path / "b")[0].memory_format == "contiguous"
    assert load_classifier(tmp_path / "b").memory_format == "contiguous"


@pytest.mark.parametrize("version", [1, 2])
def test_older_bundles_are_read_as_before(tmp_path: Path, version: int) -> None:
    classifier = _classifier()
    save_classifier(tmp_path / "b", classifier, WRN, ORIGIN)
    document = json.loads((tmp_path / "b" / "bundle.json").read_bytes())
    del document["memory_format"], document["document_sha256"]
    data = {**document, "version": version}
    (tmp_path / "b" / "bundle.json").write_bytes(dump_json(data) if version == 1 else seal(data))
    loaded = load_classifier(tmp_path / "b")
    assert loaded.memory_format == "channels_last"
    assert all(torch.equal(value, classifier.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_classifier_is_written_as_before_and_says_no_task(tmp_path: Path) -> None:
    save_classifier(tmp_path / "b", _classifier(), WRN, ORIGIN)
    document = json.loads((tmp_path / "b" / "bundle.json").read_bytes())
    assert document["version"] == 3
    assert "task" not in document
    assert read_bundle(tmp_path / "b")[0].task == load_classifier(tmp_path / "b").task == "classification"


def test_another_task_is_said_in_a_version_that_older_code_refuses(tmp_path: Path) -> None:
    classifier = _classifier()
    classifier.task = "segmentation"
    save_classifier(tmp_path / "b", classifier, WRN, ORIGIN)
    assert json.loads((tmp_path / "b" / "bundle.json").read_bytes())["version"] == 4
    assert read_bundle(tmp_path / "b")[0].task == load_classifier(tmp_path / "b").task == "segmentation"
    _edit(tmp_path / "b", task="detection")
    with pytest.raises(StoreError, match="its field 'task' is missing or wrong"):
        read_bundle(tmp_path / "b")
