"""The way without a generator: images are made from nothing to the teacher's liking, and a student learns from the set of them."""

from distillery_kfp.components.synthesis.materialize.component import materialize
from distillery_kfp.pipelines.graph import Form, pipeline
from distillery_kfp.pipelines.wiring import begin, learn, step


@pipeline
def inversion_distillation(form: Form) -> None:
    """Distil a teacher without its data: make images by gradients on their pixels, train and register a student."""
    sections, form, moments = begin("inversion_distillation", form)
    draw = step(materialize, sections["materialize"], form, statistics=moments)
    learn(sections, form, draw.outputs["dataset"])
