"""The quality benchmark on made-up data of two data sets' layouts: every row lands, none is measured twice, a blind one reads no test."""

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import quality
import real_data

TINY = [
    "synthesis.config.batch=8",
    "deep_inversion:synthesis.config.steps=1",
    "deep_inversion:synthesis.config.coarse_steps=1",
    "deep_inversion:set.size=20",
    "fast_dfkd:synthesis.rounds=2",
    "fast_dfkd:synthesis.config.generator.width=4",
    "ls_gdfd:synthesis.rounds=2",
    "ls_gdfd:synthesis.config.generator.width=4",
    "fast_dfkd:synthesis.config.steps=1",
    "fast_dfkd:synthesis.config.warmup=0",
    "fast_dfkd:synthesis.student_steps_per_turn=2",
    "fast_dfkd:synthesis.closing_rounds=0",
    "ls_gdfd:synthesis.config.steps_per_round=1",
    "ls_gdfd:set.size=20",
    "set.holdout=0.25",
    "student.keep_epochs=1",
    "student.architecture={name: resnet8, arguments: {base_width: 8}}",
    "student.stages.0.epochs=2",
    "student.stages.0.steps_per_epoch=2",
    "student.stages.0.batch=8",
    "evaluation.latency=false",
]


def idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "fashion_mnist"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 20)):
        idx(folder / f"{prefix}-images-idx3-ubyte.gz", draws.integers(0, 256, (count, 28, 28)))
        idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path / "data"


def sweep(tmp_path: Path, data: Path, *more: str) -> int:
    teacher = ["epochs=1", "batch=10", "architecture={name: wrn_10_1, arguments: {base_width: 8}}"]
    arguments = ["--data", str(data), "--folder", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    arguments += [word for value in teacher for word in ("--teacher", value)]
    arguments += [word for value in TINY for word in ("--set", value)]
    return quality.main([*arguments, "--device", "cpu", *more])


def rows(tmp_path: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")]
    return {row["row"]: row for row in found}


@pytest.mark.integration
def test_every_row_lands_once(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, data, "--seeds", "1") == 0
    found = rows(tmp_path)
    assert set(found) == set(quality.ROWS["fashion_mnist"])
    for name, row in found.items():
        assert row["teacher"]["total"] == 20
        assert row["minutes"] >= 0
        assert row["hardware"]["threads"] >= 1
        if name != "teacher":
            assert 0 <= row["student"]["correct"] <= row["student"]["total"] == 20
            assert row["student"]["name"] == "resnet8"
            assert row["seed"] == 1
    for method in ("fast_dfkd", "ls_gdfd"):
        assert [point["epoch"] for point in found[method]["curve"]] == [1, 2]
        assert found[method]["curve"][-1]["correct"] == found[method]["student"]["correct"]
        assert found[method]["best"]["total"] == 20
        assert found[method]["agreement"]["images"] == "test set"
    assert found["fast_dfkd"]["overrides"]["synthesis.config.steps"] == 1
    assert "synthesis.config.steps" not in found["real"]["overrides"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    capsys.readouterr()
    assert sweep(tmp_path, data, "--seeds", "1") == 0
    assert capsys.readouterr().out.count("is there") == len(found) - 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()} == written


@pytest.mark.integration
def test_other_settings_make_another_row(tmp_path: Path, data: Path) -> None:
    for rate in ("0.1", "0.01"):
        assert sweep(tmp_path, data, "--seeds", "0", "--rows", "ls_gdfd", "--set", f"student.stages.0.optimizer.rate={rate}") == 0
    assert len(list((tmp_path / "results").glob("fashion_mnist-ls_gdfd-*-seed0.json"))) == 2


@pytest.mark.integration
def test_a_row_of_several_generators_says_how_many_and_counts_the_seconds_of_each_shard(tmp_path: Path, data: Path) -> None:
    several = ["ls_gdfd:synthesis.generators=2", "ls_gdfd:synthesis.shard_memory_gib=0.008"]
    assert sweep(tmp_path, data, "--seeds", "0", "--rows", "ls_gdfd", *(word for value in several for word in ("--set", value))) == 0
    row = rows(tmp_path)["ls_gdfd"]
    assert row["generators"] == 2
    stores = [path / "store" for path in (tmp_path / "work").glob("fashion_mnist/teacher-*/ls_gdfd-*")]
    entries = quality.told(stores[0], "train_generator", 2)
    assert len(entries) == 2 * 2
    assert len(quality.told(stores[0], "train_generator")) == 2
    before = quality.seconds_of([*entries, *quality.told(stores[0], "materialize")])
    assert row["curve"][0]["minutes"] >= round(before / 60, 2)


@pytest.mark.integration
def test_a_blind_try_reads_no_test_image_and_writes_no_row(tmp_path: Path, data: Path) -> None:
    for path in (data / "fashion_mnist").glob("t10k*"):
        path.unlink()
    assert sweep(tmp_path, data, "--seeds", "0", "--blind") == 0
    assert not (tmp_path / "results").exists()
    tries = [json.loads(path.read_text()) for path in (tmp_path / "work" / "tries").glob("*.json")]
    assert sorted(row["row"] for row in tries) == sorted(quality.RECIPES["fashion_mnist"])
    assert all(row["agreement"]["images"] == "held-out synthetic" and "correct" not in row["student"] for row in tries)


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, tmp_path) == 1
    assert "There is no folder 'fashion_mnist'" in capsys.readouterr().err


def test_mosaics_are_cut_into_tiles_in_row_major_order(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    for number in range(2):
        tiles = images[number * 6 : number * 6 + 6].reshape(2, 3, 32, 32, 3)
        Image.fromarray(tiles.transpose(0, 2, 1, 3, 4).reshape(64, 96, 3)).save(tmp_path / f"test-0{number}.webp", lossless=True)
    np.save(tmp_path / "test-labels.npy", np.arange(12, dtype=np.uint8))
    found, labels = real_data.read_mosaics(tmp_path, "test")
    assert np.array_equal(found, images.transpose(0, 3, 1, 2))
    assert labels.tolist() == list(range(12))


def test_the_rate_rises_and_falls() -> None:
    from teachers import one_cycle

    assert [one_cycle(progress, 0.25) for progress in (0.0, 0.125, 0.25, 0.625, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
