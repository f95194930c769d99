"""The way without synthesis: a student learns from images that are there, a set made before or real ones."""

from distillery_kfp.components.synthesis.open_set.component import open_set
from distillery_kfp.pipelines.graph import Form, pipeline
from distillery_kfp.pipelines.wiring import learn, plan_run, step


@pipeline
def student_distillation(form: Form) -> None:
    """Train and register a student on a synthetic set made before, or on real images as its baseline."""
    sections, form = plan_run("student_distillation", form)
    learn(sections, form, step(open_set, sections["source"], form).outputs["dataset"])
