"""The speed benchmark on networks of toy size: what it prints, what it writes, when it fails."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import bench
import bound
import contest
import worker
from contest import TINY, OurSide, RivalSide, Timing, build_scene
from distillery.runtime import resolve_runtime

QUICK = [
    "--tiny",
    "--rounds",
    "2",
    "--ladder-rounds",
    "0",
    "--steps",
    "2",
    "--growth-rounds",
    "6",
    "--materialized",
    "64",
    "--stack-rounds",
    "1",
]


@pytest.mark.integration
def test_the_last_lines_are_the_ratios_and_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert bench.main([*QUICK, "--device", "cpu", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"student_loop \d+\.\dx", lines[-2])
    assert re.fullmatch(r"synthesis \d+\.\dx", lines[-1])
    record = json.loads(out.read_text())
    assert lines[-2] == f"student_loop {record['ratios']['student_loop']:.1f}x"
    assert set(record) >= {"hardware", "versions", "command", "n", "samples", "setting", "ladder", "alone"}
    for side in ("ours", "rival"):
        assert len(record["samples"][side]["student_loop"]) == len(record["samples"][side]["synthesis"]) == record["n"] == 2
    assert record["ladder"] == {}, "it would start a process a habit: see the next test"
    assert record["alone"]["materialize"]["images_per_second"] > 0
    assert len(record["alone"]["growth"]["samples"]) == 6
    assert [(row["generators"], row["images"]) for row in record["alone"]["stacks"]] == [(2, 4), (3, 4)]
    assert [len(row["stacked"]) for row in record["alone"]["stacks"]] == [1, 1]
    assert sum(line.startswith("stacked against one after another: ") for line in lines) == 2
    assert not re.search(re.escape(str(tmp_path)), json.dumps(record)), "no path of this machine"


def test_the_ladder_measures_the_halves_that_a_habit_touches(scene: contest.Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "Worker", lambda scene, habit="": nullcontext(OurSide(scene, habit)))
    ladder = bench.climb(scene, bench.Options(ladder_rounds=1, steps=1, habits=("float32", "nchw", "png")))
    halves = {habit: set(rung) & set(bench.BARS) for habit, rung in ladder.items()}
    assert halves == {"float32": set(), "nchw": {"student_loop", "synthesis"}, "png": {"student_loop"}}
    assert "no other" in ladder["float32"]["note"]
    rung = ladder["nchw"]["synthesis"]
    assert len(rung["ours"]) == len(rung["with_habit"]) == ladder["nchw"]["n"] == 1
    assert rung["slower"] > 0


@pytest.mark.parametrize(
    ("native", "tiny", "ratio", "code"), [(True, False, 3.9, 1), (True, False, 4.1, 0), (False, False, 1.0, 0), (True, True, 1.0, 0)]
)
def test_only_a_processor_with_bfloat16_is_held_to_the_bars(
    native: bool, tiny: bool, ratio: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_: {"ratios": {"student_loop": ratio, "synthesis": 5.0}})
    monkeypatch.setattr(bench, "build_scene", lambda *_: None)
    monkeypatch.setattr(bench, "describe", lambda *_: {})
    monkeypatch.setattr(bench, "document", lambda *_: {"hardware": {"native_bfloat16": native}, "ratios": _[2]["ratios"]})
    assert bench.main(["--device", "cpu", "--out", str(tmp_path / "x.json"), *(["--tiny"] if tiny else [])]) == code


def test_a_sides_process_is_set_as_its_program_sets_it(scene: contest.Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for habit in ("", "malloc", worker.RIVAL):
        monkeypatch.setattr(worker, "keep_freed_memory", lambda habit=habit: asked.append(habit))
        worker.build(scene, habit)
    assert asked == [""]


@pytest.mark.integration
def test_a_side_that_dies_is_told(scene: contest.Scene) -> None:
    with worker.Worker(scene) as side:
        side._process.kill()
        with pytest.raises((RuntimeError, BrokenPipeError)):
            side.synthesize()


def test_a_pass_counts_the_readers_start_once() -> None:
    assert Timing(start=1.0, steps=4.0, count=4).images_per_second(batch=256, pass_steps=20) == pytest.approx(20 * 256 / 21)


@pytest.fixture
def scene(tmp_path: Path) -> contest.Scene:
    return build_scene(TINY, resolve_runtime("cpu", "float32"), tmp_path)


def test_both_sides_start_from_equal_weights_and_images(scene: contest.Scene) -> None:
    ours, rival = OurSide(scene), RivalSide(scene)._rival
    for mine, theirs in ((ours._teacher, rival.teacher), (ours._student, rival.student)):
        assert all(torch.equal(a, b) for a, b in zip(mine.network.state_dict().values(), theirs.state_dict().values(), strict=True))
    meta = ours._method.state_dict()["meta"]
    assert all(torch.equal(meta[name], value) for name, value in rival.generator.state_dict().items())
    assert len(list((scene.folder / "pool").iterdir())) == len(scene.images) == 24
    assert len(set(scene.teacher(scene.images.float() / 255).argmax(1).tolist())) > 1


@pytest.mark.parametrize("habit", ["", "nchw", "unfrozen", "hooks"])
def test_a_habit_changes_the_time_and_not_the_result(habit: str, scene: contest.Scene) -> None:
    plain, side = OurSide(scene), OurSide(scene, habit)
    for each in (plain, side):
        each.synthesize()
        each.train(1)
    torch.testing.assert_close(side._made.images.float(), plain._made.images.float(), rtol=0, atol=1.01)
    for name, value in plain._student.state_dict().items():
        torch.testing.assert_close(side._student.state_dict()[name].float(), value.float(), rtol=1e-3, atol=1e-3, msg=name)


def test_a_habit_is_really_put_back(scene: contest.Scene) -> None:
    nchw, hooks, unfrozen = (OurSide(scene, habit) for habit in ("nchw", "hooks", "unfrozen"))
    wide = next(part for part in nchw._teacher.modules() if isinstance(part, torch.nn.Conv2d) and part.in_channels > 3)
    assert wide.weight.is_contiguous()
    assert not wide.weight.is_contiguous(memory_format=torch.channels_last)
    seen: list[bool] = []
    norm = next(part for part in hooks._teacher.modules() if isinstance(part, torch.nn.BatchNorm2d))
    norm.register_forward_hook(lambda *_: seen.append(bool(norm._forward_pre_hooks)))
    hooks.train(1)
    assert seen == [True]
    assert not norm._forward_pre_hooks
    unfrozen.synthesize()
    assert all(parameter.grad is not None for parameter in unfrozen._teacher.parameters())
    plain = OurSide(scene)
    plain.synthesize()
    assert all(parameter.grad is None for parameter in plain._teacher.parameters())


def test_the_bound_counts_every_convolution_of_a_step(scene: contest.Scene) -> None:
    parts = bound.step_parts(scene)
    layers = sum(isinstance(part, torch.nn.Conv2d) for part in scene.teacher.modules())
    (looked, answered, made), k = parts["synthesis call"], scene.method.steps
    assert sum(looked.shapes.values()) == layers
    assert (looked.inputs, looked.weights, made.weights) == (1, 0, 1), "the teacher's weights get no gradients"
    assert {part.times for part in (looked, answered, made)} == {k}
    assert all(shape.images[0] == scene.method.batch for shape in looked.shapes)
    assert bound.Shape((2, 3, 32, 32), (8, 3, 3, 3), stride=2, padding=1).operations == 2 * 2 * 16 * 16 * 8 * 27


@pytest.mark.integration
def test_the_bound_is_below_the_whole_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bound.main(["--tiny", "--device", "cpu", "--profile", "--out", str(tmp_path / "bound.json")]) == 0
    record = json.loads((tmp_path / "bound.json").read_text())
    assert set(record["seconds"]) == {"student step", "synthesis call"}
    assert all(found["gflops"] > 0 for steps in record["bounds"].values() for found in steps.values())
    assert capsys.readouterr().out.count("Self CPU") >= 2
