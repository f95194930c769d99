"""What the pipelines' graphs have in common: how a step is handed its inputs, how every run begins, and how it ends."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from distillery.placement.pools import PLACED
from distillery_kfp.components.evaluation.evaluate.component import evaluate
from distillery_kfp.components.ops.plan.component import plan
from distillery_kfp.components.ops.register.component import register
from distillery_kfp.components.student.train_student.component import train_student
from distillery_kfp.components.teacher.extract_statistics.component import extract_statistics
from distillery_kfp.pipelines.graph import Form
from distillery_kfp.pipelines.metadata import component_of, metadata
from distillery_kfp.pipelines.resources import for_plan, place

Sections = Mapping[str, Any]
"""The plan's sections by name; while a pipeline is compiled each is a channel of kfp."""


def step(component: Any, section: Any, form: Form, **artifacts: Any) -> dsl.PipelineTask:
    """A task of a component, placed; of the form it takes what it has an input for.

    Args:
        component: of the step.
        section: of the plan.
        form: the fields that are known where the task stands.
        artifacts: what other tasks left, by the component's inputs.
    """
    size = metadata(component_of(component.component_spec.name)).size
    known = {"accelerators": form.get(f"{size}_accelerators"), **form}
    given = {name: value for name, value in known.items() if name in component.component_spec.inputs}
    return place(component(section=section, **given, **artifacts), form)


def plan_run(pipeline: str, form: Form) -> tuple[Sections, Form]:
    """How every run begins: its sections, and the form with what the plan says of places."""
    outputs: Sections = place(plan(pipeline=pipeline, profiles={}, **for_plan(form)), form).outputs
    return outputs, {**form, **{name: outputs[name] for name in PLACED}}


def begin(pipeline: str, form: Form) -> tuple[Sections, Form, Any]:
    """How a run begins that synthesizes: as every run, and with the teacher's moments."""
    sections, form = plan_run(pipeline, form)
    return sections, form, step(extract_statistics, sections["statistics"], form).outputs["statistics"]


def learn(sections: Sections, form: Form, dataset: Any) -> None:
    """How a run ends whose set is finished before its student begins: a student learns from the finished set, and is judged."""
    student = step(train_student, sections["student"], form, dataset=dataset).outputs["student"]
    judge(sections, form, student, dataset)


def judge(sections: Sections, form: Form, student: Any, dataset: Any) -> None:
    """How every run ends: the student is evaluated and registered."""
    report = step(evaluate, sections["evaluation"], form, student=student, dataset=dataset).outputs["report"]
    step(register, sections["registration"], form, student=student, report=report)
