"""The benchmark of plans of students, on networks and images of toy size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import students
from distillery.data.pool import ImagePool
from distillery.data.real import LabelledImages
from distillery.recipes.student_plans import find_plan
from distillery.students.plan import StudentConfig
from fakes import CLASSES, CPU, SPEC, TINY, tiny_teacher
from student_data import Ground, chosen, score_of


@pytest.fixture(scope="module")
def ground() -> Ground:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, *SPEC.shape), dtype=torch.uint8, generator=draws)
    data = LabelledImages(images, torch.arange(40) % 4)
    teacher = tiny_teacher(steps=2)
    pool = ImagePool(SPEC, torch.device("cpu"), capacity=40)
    pool.append(data.images, data.labels)
    return Ground(teacher, TINY, pool, True, data, CLASSES, score_of(teacher, data))


@pytest.mark.parametrize("name", list(students.EXPERIMENTS))
def test_rows_follow_what_they_begin_with_and_take_their_thirds(name: str) -> None:
    experiment = students.EXPERIMENTS[name]
    seen: list[str] = []
    for row, how in experiment.rows.items():
        assert {*how.members, *([how.begins] if how.begins else [])} <= set(seen), f"{row} stands before what it needs"
        seen.append(row)
        if not how.members:
            config = StudentConfig.parse(students.plan_of(experiment, how)["student"])
            assert config.epochs == experiment.epochs * how.thirds // 3
            assert len(config.stages) == len(find_plan(how.plan).stages)


def test_fast_optimization_takes_a_third_for_each_stage() -> None:
    experiment = students.EXPERIMENTS["fast"]
    stages = students.plan_of(experiment, experiment.rows["fsp-1"])["student"]["stages"]
    assert [stage["epochs"] for stage in stages] == [experiment.epochs // 3] * 2


def test_fast_optimization_is_whole_and_its_nets_share_a_first_stage(ground: Ground, tmp_path: Path) -> None:
    changes = {"student": "wrn_10_1", "arguments": {"base_width": 8}, "epochs": 3, "steps": 1, "batch": 8, "rate": 0.01}
    experiment = replace(students.EXPERIMENTS["fast"], **changes)
    before = students.EXPERIMENTS["fast"]
    students.EXPERIMENTS["fast"] = experiment
    try:
        for row in experiment.rows:
            students.measure(experiment, row, ground, tmp_path / "place", CPU, seed=3)
        assert students.publish("fast", "toys", tmp_path / "place", [3, 4], CPU, tmp_path) == 0
        assert not list(tmp_path.glob("*.json")), "a table that lacks a seed is none"
        assert students.publish("fast", "toys", tmp_path / "place", [3], CPU, tmp_path) == 0
    finally:
        students.EXPERIMENTS["fast"] = before
    record = json.loads((tmp_path / "students-fast-toys-n1.json").read_text())
    assert (record["kind"], record["experiment"], record["n"]) == ("students", "fast", 1)
    assert {row: found["steps"] for row, found in record["rows"].items()} == {
        "plain": 3,
        "plain-third": 1,
        "kd-third": 1,
        **dict.fromkeys(("fsp-1", "fsp-2", "fsp-3"), 2),
        "fsp-ensemble": 0,
        "fsp-shuffled": 2,
        "teacher-longer": 1,
    }
    answers = {row: torch.load(tmp_path / "place" / f"{row}-3.pt", weights_only=True)["logits"] for row in experiment.rows}
    nets = [answers[f"fsp-{number}"] for number in (1, 2, 3)]
    assert not torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[1], nets[2])
    torch.testing.assert_close(answers["fsp-ensemble"], torch.stack([net.softmax(1) for net in nets]).mean(0))


def test_classes_of_transfer_are_counted_anew() -> None:
    images = LabelledImages(torch.zeros(6, *SPEC.shape, dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 3, 1]))
    assert chosen(images, (1, 3)).labels.tolist() == [0, 1, 1, 0]
    assert len(chosen(images, (0,)).images) == 1
