"""A component used twice: kfp calls its second task `x-2`, and everything of ours still finds the component."""

import json
import logging
import os
from typing import Any

import pytest
from kfp import compiler, dsl

from distillery.step_table import STEPS
from distillery_kfp.components.teacher.extract_statistics.component import extract_statistics
from distillery_kfp.pipelines.compiled import Compiled
from distillery_kfp.pipelines.form import ALL
from distillery_kfp.pipelines.lint import broken_rules
from distillery_kfp.pipelines.metadata import component_of, metadata
from distillery_kfp.pipelines.resources import place
from distillery_kfp.pipelines.runner.child import Watch

FORM = {"k8s_settings": "settings", "k8s_credentials": "credentials"}


@dsl.pipeline(name="twice")
def twice(
    section: dict[str, Any] = {},  # noqa: B006
    small_cpu_request: str = "1",
    small_cpu_limit: str = "2",
    small_memory_request: str = "1Gi",
    small_memory_limit: str = "2Gi",
    small_node_selector: dict[str, Any] = {},  # noqa: B006
    small_tolerations: list[Any] = [],  # noqa: B006
) -> None:
    """Read two teachers."""
    form = {**FORM, **locals()}
    place(extract_statistics(section=section, teacher_uri="a", synth_statistics_uri=""), form)
    place(extract_statistics(section=section, teacher_uri="b", synth_statistics_uri=""), form)


@dsl.pipeline(name="looped")
def looped(
    sections: list[dict[str, Any]] = [],  # noqa: B006
    small_cpu_request: str = "1",
    small_cpu_limit: str = "2",
    small_memory_request: str = "1Gi",
    small_memory_limit: str = "2Gi",
    small_node_selector: dict[str, Any] = {},  # noqa: B006
    small_tolerations: list[Any] = [],  # noqa: B006
) -> None:
    """Read many teachers."""
    form = {**FORM, **locals()}
    with dsl.ParallelFor(sections) as section:
        place(extract_statistics(section=section, teacher_uri="a", synth_statistics_uri=""), form)


@pytest.mark.parametrize(
    ("name", "component"),
    [
        *((name.replace("_", "-"), name) for name in STEPS),
        ("evaluate-2", "evaluate"),
        ("exec-evaluate-13", "evaluate"),
        ("comp-train-student", "train_student"),
        ("train_student", "train_student"),
        ("evaluate-again", ""),
        ("for-loop-1", ""),
        ("comp-2", ""),
        ("", ""),
    ],
)
def test_the_component_behind_a_name(name: str, component: str) -> None:
    assert component_of(name) == component


def test_the_second_task_gets_what_the_first_gets(tmp_path: Any) -> None:
    path = tmp_path / "twice.yaml"
    compiler.Compiler().compile(twice, str(path))
    compiled = Compiled.parse(ALL[0], path.read_text())
    tasks = {name: task for _, name, task in compiled.tasks()}
    assert set(tasks) == {"extract-statistics", "extract-statistics-2"}
    assert {compiled.step(task) for task in tasks.values()} == {"extract_statistics"}
    first, second = (tasks[name] for name in sorted(tasks))
    assert second["retryPolicy"] == first["retryPolicy"]
    assert second["cachingOptions"] == {"enableCache": True}
    about = metadata("extract_statistics")
    assert {int(compiled.settings(task)["activeDeadlineSeconds"]) for task in tasks.values()} == {about.timeout_seconds}


def test_what_places_a_task_is_carried_into_its_loop(tmp_path: Any) -> None:
    """kfp 2.17 carries no resource there by itself: the task would refer to inputs that its loop does not have."""
    compiler.Compiler().compile(looped, str(tmp_path / "looped.yaml"))
    compiled = Compiled.parse(ALL[0], (tmp_path / "looped.yaml").read_text())
    ((graph, _, task),) = compiled.executed()
    assert graph != "root"
    origins = {compiled.origin(graph, source).name for source in task["inputs"]["parameters"].values()}
    assert {f"small_{bound}_{end}" for bound in ("cpu", "memory") for end in ("request", "limit")} <= origins
    assert [line for line in broken_rules(compiled) if line.partition(":")[0] in ("inputs_exist", "platform_inputs_exist")] == []


def test_a_local_run_shows_the_step_of_a_second_task() -> None:
    reader, writer = os.pipe()
    watch = Watch(writer)
    for message in ("Executing task 'train-student-2'", "Task 'train-student-2' finished with status SUCCESS", "Executing task 'other'"):
        watch.filter(logging.makeLogRecord({"msg": message}))
    os.close(writer)
    with os.fdopen(reader) as lines:
        events = [json.loads(line) for line in lines]
    assert [event["step"] for event in events] == ["train_student", "train_student", "other"]
