"""The way without a generator: images are made from nothing to the teacher's liking, and a student learns from the set of them."""

from distillery_kfp.components.evaluation.evaluate.component import evaluate
from distillery_kfp.components.ops.plan.component import plan
from distillery_kfp.components.ops.register.component import register
from distillery_kfp.components.student.train_student.component import train_student
from distillery_kfp.components.synthesis.materialize.component import materialize
from distillery_kfp.components.teacher.extract_statistics.component import extract_statistics
from distillery_kfp.pipelines.graph import Form, pipeline
from distillery_kfp.pipelines.resources import for_plan, place


@pipeline
def inversion_distillation(form: Form) -> None:
    """Distil a teacher without its data: make images by gradients on their pixels, train and register a student."""
    common = {"teacher_uri": form["teacher_uri"], "accelerators": form["k8s_gpu_limit"]}
    others = {"synth_ood_uri": form["synth_ood_uri"]}
    sections = place(plan(pipeline="inversion_distillation", **for_plan(form)), form).outputs
    extract = place(extract_statistics(section=sections["statistics"], teacher_uri=form["teacher_uri"]), form)
    moments = extract.outputs["statistics"]
    draw = place(materialize(section=sections["materialize"], **common, **others, statistics=moments), form)
    dataset = draw.outputs["dataset"]
    learn = place(train_student(section=sections["student"], **common, **others, dataset=dataset), form)
    scored = {"eval_data_uri": form["eval_data_uri"], "student": learn.outputs["student"], "dataset": dataset}
    score = place(evaluate(section=sections["evaluation"], **common, **scored), form)
    place(register(section=sections["registration"], student=learn.outputs["student"], report=score.outputs["report"]), form)
