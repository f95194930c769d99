"""The online way: a generator plays against the student that it feeds, inside one container."""

from distillery_kfp.components.evaluation.evaluate.component import evaluate
from distillery_kfp.components.ops.plan.component import plan
from distillery_kfp.components.ops.register.component import register
from distillery_kfp.components.student.distill_online.component import distill_online
from distillery_kfp.components.teacher.extract_statistics.component import extract_statistics
from distillery_kfp.pipelines.graph import Form, pipeline
from distillery_kfp.pipelines.resources import for_plan, place


@pipeline
def online_distillation(form: Form) -> None:
    """Distil a teacher without its data: a generator and a student play against each other; register the student."""
    common = {"teacher_uri": form["teacher_uri"], "accelerators": form["k8s_gpu_limit"]}
    sections = place(plan(pipeline="online_distillation", **for_plan(form)), form).outputs
    extract = place(extract_statistics(section=sections["statistics"], teacher_uri=form["teacher_uri"]), form)
    moments = extract.outputs["statistics"]
    given = {name: form[name] for name in ("synth_ood_uri", "synth_start_uri")}
    play = place(distill_online(section=sections["distill"], **common, **given, statistics=moments), form)
    scored = {"eval_data_uri": form["eval_data_uri"], "student": play.outputs["student"], "dataset": play.outputs["dataset"]}
    score = place(evaluate(section=sections["evaluation"], **common, **scored), form)
    place(register(section=sections["registration"], student=play.outputs["student"], report=score.outputs["report"]), form)
