"""What a run would cost: measured parts multiplied out by hand, real steps timed, and nothing written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.estimate import profiling
from distillery.estimate.estimate import Counted, Estimate, estimate, multiply_out
from distillery.estimate.profiling import Profile, Timing, profile_run
from distillery.methods.catalog import METHODS
from distillery.models.bundle import save_classifier
from distillery.provenance import Provenance
from distillery.recipes.effects import drop_idle, kind_of
from distillery.recipes.loader import load_document, load_recipe
from distillery.runtime import Runtime
from fakes import CPU, SPEC, TINY, tiny_teacher
from methods import tiny
from toy_methods import TOYS, registered

EXPECTS = {"expects": {"height": 8, "width": 8, "classes": 4}}
SMALL = {f"{name}/digits": {**EXPECTS, "synthesis.config": tiny(name), "student.stages.0.batch": 16} for name in METHODS}
TIMING = Timing(0.5, 64, 64, 1000)
MEASURED = Profile(
    turn=Timing(2.0, 32, 64, 5000),
    stages=(TIMING,),
    draw=Timing(0.25, 256, 256, 100),
    teacher_image=0.002,
    student_image=0.001,
    startup=3.0,
    startup_bytes=10_000,
    teacher_bytes=700,
    student_bytes=200,
    synthesizer_bytes=300,
    trainer_bytes=400,
)


TESTED = Counted(tested=100)
AGAIN = 5 + 5 + 1  # five candidates on the images that are new, the same on all of them in the end, and the last student


def parts(found: Estimate) -> dict[str, tuple[int, tuple[float, float]]]:
    return {part.name: (part.times, tuple(pytest.approx(value) for value in part.seconds)) for part in found.parts}  # type: ignore[misc]


def of(recipe: str, counted: Counted = TESTED, **overrides: object) -> Estimate:
    changes = {"evaluation.latency": False, "student.keep_epochs": 0, **overrides}
    return multiply_out(load_recipe(recipe, changes), MEASURED, SPEC, 4, counted, 5, "cpu")


def test_an_online_run_multiplied_out() -> None:
    found = of("fast_dfkd/digits")
    assert (found.images, found.student_steps) == (48 * 64, 800)
    assert parts(found) == {
        "synthesis": (48, (96.0, 96.0)),
        "labelling": (3072, (6.144, 6.144)),
        "student": (800, (400.0, 400.0)),
        "checks": (40, ((40 / 2 + AGAIN) * 3072 * 0.05 * 0.001,) * 2),
        "evaluation": (100, (0.4, 0.4)),
        "starting steps": (5, (15.0, 15.0)),
    }
    pixels = 3072 * 64
    waiting = (5 + 1) * 200  # candidates for the best epoch, and one more while the worst is still there
    assert found.memory == 10_000 + 700 + (400 + 300) + waiting + 5000 + pixels
    made = pixels + 3072 * (4 * 4 + 8) + 96 * 2048
    assert found.store == made + 2 * 2 * 200 + 300 + 3 * 2**20
    assert found.store_peak == found.store + 2 * 700 + waiting


def test_images_that_are_new_each_step_are_drawn_labelled_and_kept() -> None:
    found = of("fast_dfkd/digits", **{"synthesis.feed": "fresh", "student.stages.0.batch": 32})
    held_out = 48 * 64 * 0.05
    assert found.images == round(held_out) + 800 * 32
    assert parts(found)["drawing for the student"] == (800, (200.0, 200.0))
    assert parts(found)["labelling"] == (found.images, (found.images * 0.002,) * 2)
    assert parts(found)["checks"] == (40, ((40 / 2 + AGAIN) * held_out * 0.001,) * 2)


def test_closing_rounds_check_on_all_that_is_held_out() -> None:
    found = parts(of("fast_dfkd/digits", **{"synthesis.closing_rounds": 120}))
    assert found["student"] == (3200, (1600.0, 1600.0))
    assert found["checks"][1][0] == pytest.approx((40 * (20 + 120) / 160 + AGAIN) * 3072 * 0.05 * 0.001)


def test_a_set_to_begin_with_is_kept_and_checked_on_and_images_of_another_domain_lie_on_the_device() -> None:
    plain, begun = of("fast_dfkd/digits"), of("fast_dfkd/digits", Counted(tested=100, begun=500, begun_holdout=50, ood=70))
    assert begun.images == plain.images + 500
    assert begun.memory - plain.memory == (500 + 70) * 64
    assert begun.store - plain.store == 500 * (64 + 4 * 4 + 8)
    assert parts(begun)["checks"] == (40, ((40 * (0.5 * 153.6 + 50) + AGAIN * (153.6 + 50)) * 0.001,) * 2)
    assert {name: part for name, part in parts(begun).items() if name != "checks"} == {
        name: part for name, part in parts(plain).items() if name != "checks"
    }
    unlabelled = of("fast_dfkd/digits", Counted(begun=500, begun_holdout=50))
    assert parts(unlabelled)["evaluation"][0] == 154 + 50


def test_an_offline_run_multiplied_out() -> None:
    stage = {"student.stages.0.epochs": 10, "student.stages.0.steps_per_epoch": 93, "student.stages.0.batch": 64}
    found = of("ls_gdfd/digits", **{"set.max_oversampling": 4.0, "set.holdout": 0.0, **stage})
    assert parts(found) == {
        "synthesis": (12, (24.0, 24.0)),
        "drawing the set": (24, (6.0, 24.0)),
        "student": (930, (465.0, 465.0)),
        "evaluation": (100, (0.4, 0.4)),
        "starting steps": (5, (15.0, 15.0)),
    }
    low, high = found.seconds
    assert high - low == pytest.approx(18.0)
    assert "batch of 32, times 64/32" in found.parts[0].how


def test_a_set_whose_turns_make_it_is_paid_by_the_turn_and_by_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    document = load_document("ls_gdfd/digits")
    monkeypatch.setitem(METHODS, "ls_gdfd", replace(METHODS["ls_gdfd"], target="images"))
    drop_idle(document, METHODS["ls_gdfd"])
    monkeypatch.setattr("distillery.recipes.loader.load_document", lambda source: document)
    found = of("ls_gdfd/digits", **{"set.size": 1000, "set.max_oversampling": 3})
    assert found.recipe.turns == 16  # of 64 images
    assert parts(found)["synthesis"] == (16, (32.0, 96.0))
    assert parts(found)["labelling"] == (1000, (2.0, 6.0))
    assert "drawing the set" not in parts(found)
    assert found.images == 1000


def test_snapshots_cost_room_and_evaluation() -> None:
    ten = {"student.stages.0.epochs": 10}
    plain, kept = of("ls_gdfd/digits", **ten), of("ls_gdfd/digits", **ten, **{"student.keep_epochs": 2})
    assert kept.store - plain.store == 2 * 5 * 200
    assert dict(parts(kept))["evaluation"] == (100, (0.9, 0.9))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_start", lambda: (1.0, 1000))
    for name in ("SYNTHESIS_SECONDS", "STUDENT_SECONDS", "FORWARD_SECONDS"):
        monkeypatch.setattr(profiling, name, 0.3)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("recipe", "feed"), [*((recipe, "") for recipe in SMALL), ("fast_dfkd/digits", "fresh")])
def test_real_steps_are_timed(recipe: str, feed: str) -> None:
    chosen = load_recipe(recipe, {**SMALL[recipe], **({"synthesis.feed": feed} if feed else {})})
    found = profile_run(chosen, CPU.place(tiny_teacher(steps=1)), "t" * 64, CPU)
    drawn = kind_of(chosen.method) == "generator" or feed == "fresh"
    timings = [found.turn, *found.stages, *([found.draw] if drawn else [])]
    assert all(timing.seconds > 0 for timing in timings)
    assert found.turn.full == chosen.settings.images_per_turn == 8
    assert found.teacher_image > 0
    assert min(found.student_bytes, found.synthesizer_bytes) > 1000
    assert found.trainer_bytes > found.student_bytes


@pytest.mark.usefixtures("quick")
def test_steps_that_use_images_of_another_domain_are_timed_with_some(tmp_path: Path) -> None:
    np.savez(tmp_path / "others.npz", images=np.zeros((9, 8, 8), dtype=np.uint8))
    save_classifier(tmp_path / "teacher", tiny_teacher(steps=1), TINY, Provenance(code_version="c"))
    changes = {**SMALL["ls_gdfd/digits"], "student.stages.0.ood_share": 0.5}
    document = {"extends": "ls_gdfd/digits", "synthesis": {"method": "toy_critic", "config": TOYS["toy_critic"].tiny}}
    form = {"run_recipe": "ls_gdfd/digits", "run_overrides": changes, "teacher_uri": str(tmp_path / "teacher")}
    with pytest.raises(ConfigError, match="none are given"):
        estimate("generative_distillation", form, "cpu")
    found = estimate("generative_distillation", {**form, "synth_ood_uri": str(tmp_path / "others.npz")}, "cpu")
    assert (found.counted.ood, found.counted.begun) == (9, 0)
    with registered():
        (tmp_path / "critic.yaml").write_text(yaml.safe_dump(document))
        chosen = load_recipe(str(tmp_path / "critic.yaml"), EXPECTS)
        assert profile_run(chosen, CPU.place(tiny_teacher(steps=1)), "t" * 64, CPU).turn.seconds > 0


@pytest.mark.usefixtures("quick")
def test_only_what_the_synthesizer_makes_of_a_batch_is_drawn() -> None:
    fed = {"synthesis.feed": "fresh", "student.stages.0.ood_share": 0.25}
    chosen = load_recipe("fast_dfkd/digits", {**SMALL["fast_dfkd/digits"], **fed})
    found = profile_run(chosen, CPU.place(tiny_teacher(steps=1)), "t" * 64, CPU)
    assert (found.draw.full, found.stages[0].full) == (12, 16)


@pytest.mark.parametrize(("steps", "seconds"), [(500, 16 * (2 + 500 * 3)), (1, 16 * (2 + 3))])
def test_a_turn_of_many_steps_is_told_from_two_short_ones(steps: int, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    class Slow:
        def __init__(self, images: int, steps: int) -> None:
            self.takes = images * (2 + steps * 3)

        def advance(self, student: object) -> None:
            clock[0] += self.takes

    recipe = load_recipe("ls_gdfd/digits", {**EXPECTS, "synthesis.config": {"batch": 16, "steps_per_round": steps}})
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(profiling._Maker, "synthesizer", lambda self, images, steps: Slow(images, steps))
    found = profiling._Bench(recipe, CPU.place(tiny_teacher(steps=1)), "t" * 64, CPU, 0).maker.time_turn()
    assert (found.seconds, found.measured, found.full) == (pytest.approx(seconds), 8, 16)


def test_a_slow_call_is_timed_at_a_smaller_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def call(n: int) -> None:
        clock[0] += n

    monkeypatch.setattr(profiling.time, "perf_counter", lambda: clock[0])
    timing = profiling._timed(lambda n: lambda: call(n), 512, 200.0, Runtime(torch.device("cpu"), "float32", 1))
    assert (timing.measured, timing.full, timing.seconds) == (32, 512, 512.0)
    timing = profiling._timed(lambda n: lambda: call(n), 4, 200.0, Runtime(torch.device("cpu"), "float32", 1))
    assert (timing.measured, timing.seconds) == (4, 4.0)


@pytest.mark.usefixtures("quick")
def test_what_the_plan_refuses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_classifier(tmp_path / "teacher", tiny_teacher(steps=1), TINY, Provenance(code_version="c"))
    monkeypatch.chdir(tmp_path)
    form = {"run_recipe": "ls_gdfd/digits", "run_overrides": SMALL["ls_gdfd/digits"], "teacher_uri": str(tmp_path / "teacher")}
    found = estimate("generative_distillation", form, "cpu", steps=7)
    assert found.images == 6000
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]
    with pytest.raises(ConfigError, match="height = 16"):
        estimate("generative_distillation", {**form, "run_overrides": {}})
    with pytest.raises(CheckpointMismatchError):
        estimate("generative_distillation", {**form, "teacher_sha256": "0" * 64})
    with pytest.raises(ConfigError, match="online"):
        estimate("generative_distillation", {**form, "run_recipe": "fast_dfkd/digits", "run_overrides": SMALL["fast_dfkd/digits"]})
    with pytest.raises(ConfigError, match="--teacher is missing"):
        estimate("generative_distillation", {**form, "teacher_uri": ""})
