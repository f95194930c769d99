"""The online way: a generator plays against the student that it feeds, inside one container."""

from distillery_kfp.components.student.distill_online.component import distill_online
from distillery_kfp.pipelines.graph import Form, pipeline
from distillery_kfp.pipelines.wiring import begin, judge, step


@pipeline
def online_distillation(form: Form) -> None:
    """Distil a teacher without its data: a generator and a student play against each other; register the student."""
    sections, form, moments = begin("online_distillation", form)
    play = step(distill_online, sections["distill"], form, statistics=moments)
    judge(sections, form, play.outputs["student"], play.outputs["dataset"])
