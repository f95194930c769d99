"""The other way to a teacher's statistics of each class: on images that are there, such as its owner's labelled ones."""

from distillery_kfp.components.synthesis.open_set.component import open_set
from distillery_kfp.components.teacher.extract_class_statistics.component import extract_class_statistics
from distillery_kfp.pipelines.graph import Form, pipeline
from distillery_kfp.pipelines.wiring import plan_run, step


@pipeline
def image_statistics(form: Form) -> None:
    """Measure a teacher's statistics of each class on labelled images of its owner, or on a set made before."""
    sections, form = plan_run("image_statistics", form)
    images = step(open_set, sections["source"], form).outputs["dataset"]
    step(extract_class_statistics, sections["class_statistics"], form, dataset=images)
