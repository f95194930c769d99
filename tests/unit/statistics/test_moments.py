from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.provenance import Provenance, sha256_file
from distillery.statistics import moments as module
from distillery.statistics.moments import Moments, load_moments, save_moments
from distillery.tensor_files import read_document

PROVENANCE = Provenance(inputs={"teacher": "abc"}, seeds={"run": 3}, code_version="1")


def global_ones() -> Moments:
    mean = {"network.b": torch.tensor([1.0, 2.0]), "network.a": torch.tensor([-1.0, 0.5, 3.0])}
    variance = {"network.b": torch.tensor([0.25, 0.0]), "network.a": torch.tensor([4.0, 5.0, 6.0])}
    return Moments("global", mean, variance, "abc")


def per_class() -> Moments:
    mean = {"network.a": torch.arange(6.0).view(3, 2)}
    variance = {"network.a": torch.arange(6.0).view(3, 2) + 10}
    return Moments("per_class", mean, variance, "abc", torch.tensor([4, 5, 6]))


def assert_same(found: Moments, wanted: Moments) -> None:
    assert (found.kind, found.teacher_sha256) == (wanted.kind, wanted.teacher_sha256)
    assert list(found.mean) == list(found.variance) == list(wanted.mean)
    assert all(torch.equal(found.mean[path], wanted.mean[path]) for path in wanted.mean)
    assert all(torch.equal(found.variance[path], wanted.variance[path]) for path in wanted.mean)
    assert (found.counts is None) == (wanted.counts is None)
    assert wanted.counts is None or torch.equal(found.counts, wanted.counts)


@pytest.mark.parametrize("moments", [global_ones(), per_class(), Moments("global", {}, {}, "abc")], ids=["global", "per_class", "empty"])
def test_a_file_gives_back_what_was_written_in_the_same_order(tmp_path: Path, moments: Moments) -> None:
    digest = save_moments(tmp_path / "moments", moments, PROVENANCE)
    assert_same(load_moments(tmp_path / "moments", "abc"), moments)
    assert digest == sha256_file(tmp_path / "moments")


def test_equal_moments_give_equal_bytes_and_no_stray_file(tmp_path: Path) -> None:
    first = save_moments(tmp_path / "one", global_ones(), PROVENANCE)
    strided = {path: torch.stack([value, value], 1)[:, 0] for path, value in global_ones().mean.items()}
    assert save_moments(tmp_path / "two", replace(global_ones(), mean=strided), PROVENANCE) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_the_header_is_one_document_with_provenance(tmp_path: Path) -> None:
    save_moments(tmp_path / "moments", per_class(), PROVENANCE)
    document = read_document(module.FORMAT, (tmp_path / "moments").read_bytes(), "here")
    assert (document.version, document.fields["kind"], document.provenance) == (2, "per_class", PROVENANCE)


def test_another_teachers_moments_are_refused(tmp_path: Path) -> None:
    save_moments(tmp_path / "moments", global_ones(), PROVENANCE)
    with pytest.raises(CheckpointMismatchError, match="belong to teacher abc, but the teacher in use is other"):
        load_moments(tmp_path / "moments", "other")


def test_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORMAT", replace(module.FORMAT, version=3))
    save_moments(tmp_path / "moments", global_ones(), PROVENANCE)
    monkeypatch.undo()
    with pytest.raises(CheckpointMismatchError, match="version 3"):
        load_moments(tmp_path / "moments", "abc")


@pytest.mark.parametrize("metadata", [None, {"distillery": "{"}, {"distillery": "[]"}, {"format": "pt"}])
def test_somebody_elses_safetensors_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "moments", metadata)
    with pytest.raises(CheckpointMismatchError, match="distillery-moments"):
        load_moments(tmp_path / "moments", "abc")


def test_every_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "moments"
    save_moments(path, per_class(), PROVENANCE)
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            found = load_moments(path, "abc")
        except (StoreError, CheckpointMismatchError):
            continue
        assert_same(found, per_class())


@pytest.mark.parametrize("keep", [0, 7, 40, -1])
def test_a_cut_file_is_damaged(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "moments"
    save_moments(path, global_ones(), PROVENANCE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match="extract the statistics again"):
        load_moments(path, "abc")


def test_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="extract-statistics"):
        load_moments(tmp_path / "nothing", "abc")


def test_an_unwritable_place_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        save_moments(tmp_path / "file" / "moments", global_ones(), PROVENANCE)


def test_plain_safetensors_reads_the_tensors(tmp_path: Path) -> None:
    save_moments(tmp_path / "moments", per_class(), PROVENANCE)
    assert sorted(load_file(tmp_path / "moments")) == ["counts", "mean/network.a", "variance/network.a"]


def test_select_takes_the_rows_of_the_labels() -> None:
    chosen = per_class().select(torch.tensor([2, 0, 2]))
    assert chosen.mean["network.a"].tolist() == [[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]]
    assert chosen.variance["network.a"].tolist() == [[14.0, 15.0], [10.0, 11.0], [14.0, 15.0]]
    assert chosen.counts.tolist() == [6, 4, 6]


def test_select_repeats_global_moments_for_each_label() -> None:
    chosen = global_ones().select(torch.tensor([7, 1]))
    assert chosen.mean["network.b"].tolist() == [[1.0, 2.0]] * 2
    assert chosen.variance["network.a"].shape == (2, 3)


def test_to_moves_every_tensor() -> None:
    moved = per_class().to("meta")
    assert {t.device.type for t in (*moved.mean.values(), *moved.variance.values(), moved.counts)} == {"meta"}
