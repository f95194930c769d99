"""The data-free way to a teacher's statistics of each class: images are inverted from it, and it looks at them."""

from distillery_kfp.components.synthesis.materialize.component import materialize
from distillery_kfp.components.teacher.extract_class_statistics.component import extract_class_statistics
from distillery_kfp.pipelines.graph import Form, pipeline
from distillery_kfp.pipelines.wiring import begin, step


@pipeline
def class_statistics(form: Form) -> None:
    """Measure a teacher's statistics of each class without its data: invert images of each, keep them as a set, measure them."""
    sections, form, moments = begin("class_statistics", form)
    draw = step(materialize, sections["materialize"], form, statistics=moments)
    step(extract_class_statistics, sections["class_statistics"], form, dataset=draw.outputs["dataset"])
