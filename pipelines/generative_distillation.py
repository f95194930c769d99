"""The offline way: a generator learns from the teacher alone, a set is drawn from it, and a student learns from the set."""

from typing import Any

from kfp import dsl

from distillery_kfp.components.evaluation.evaluate.component import evaluate
from distillery_kfp.components.generator.train_generator.component import train_generator
from distillery_kfp.components.ops.plan.component import plan
from distillery_kfp.components.ops.register.component import register
from distillery_kfp.components.student.train_student.component import train_student
from distillery_kfp.components.synthesis.materialize.component import materialize
from distillery_kfp.components.teacher.extract_statistics.component import extract_statistics
from distillery_kfp.pipelines.resources import for_plan, place


@dsl.pipeline(name="generative-distillation")
def generative_distillation(
    teacher_uri: str,
    run_recipe: str = "ls_gdfd/digits",
    run_recipe_uri: str = "",
    run_overrides: dict[str, Any] = {},  # noqa: B006 (the form refuses a field without a default)
    run_salt: str = "",
    run_seed: int = 0,
    teacher_sha256: str = "",
    eval_data_uri: str = "",
    gen_rounds: int = 0,
    synth_size: int = 0,
    student_architecture: str = "",
    mlflow_model_name: str = "",
    k8s_cpu_limit: str = "4",
    k8s_cpu_request: str = "2",
    k8s_credentials: str = "distillery-credentials",
    k8s_gpu_limit: str = "1",
    k8s_gpu_node_selector: dict[str, Any] = {},  # noqa: B006
    k8s_gpu_tolerations: list[Any] = [],  # noqa: B006
    k8s_gpu_type: str = "nvidia.com/gpu",
    k8s_memory_limit: str = "16Gi",
    k8s_memory_request: str = "8Gi",
    k8s_settings: str = "distillery-settings",
) -> None:
    """Distil a teacher without its data: train a generator, draw a synthetic set, train and register a student."""
    form = dict(locals())
    common = {"teacher_uri": teacher_uri, "accelerators": k8s_gpu_limit}
    sections = place(plan(pipeline="generative_distillation", **for_plan(form)), form).outputs
    extract = place(extract_statistics(section=sections["statistics"], teacher_uri=teacher_uri), form)
    moments = extract.outputs["statistics"]
    train = place(train_generator(section=sections["generator"], **common, statistics=moments), form)
    made = {"statistics": moments, "synthesizer": train.outputs["synthesizer"]}
    draw = place(materialize(section=sections["materialize"], **common, **made), form)
    dataset = draw.outputs["dataset"]
    learn = place(train_student(section=sections["student"], **common, dataset=dataset), form)
    scored = {"eval_data_uri": eval_data_uri, "student": learn.outputs["student"], "dataset": dataset}
    score = place(evaluate(section=sections["evaluation"], **common, **scored), form)
    place(register(section=sections["registration"], student=learn.outputs["student"], report=score.outputs["report"]), form)
