"""Shim of the step that resolves the recipe and hands every other step its settings."""

from typing import Any, NamedTuple

from kfp import dsl


@dsl.component(base_image="registry.example.com/distillery/runtime-cpu-python:0.1.0", packages_to_install=[], install_kfp_package=False)
def plan(
    pipeline: str,
    run_recipe: str,
    run_recipe_uri: str,
    run_overrides: dict[str, Any],
    run_salt: str,
    run_seed: int,
    teacher_uri: str,
    teacher_sha256: str,
    eval_data_uri: str,
    synth_ood_uri: str,
    student_architecture: str,
    student_method: str,
    student_start_uri: str,
    mlflow_model_name: str,
    k8s_cpu_limit: str,
    k8s_cpu_request: str,
    k8s_gpu_limit: str,
    k8s_gpu_node_selector: dict[str, Any],
    k8s_gpu_tolerations: list[Any],
    k8s_gpu_type: str,
    k8s_memory_limit: str,
    k8s_memory_request: str,
    gen_rounds: int = 0,
    synth_size: int = 0,
    synth_start_uri: str = "",
    images_uri: str = "",
    synth_statistics_uri: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Sections",
    [
        ("statistics", dict[str, Any]),
        ("generator", dict[str, Any]),
        ("shards", list[dict[str, Any]]),
        ("materialize", dict[str, Any]),
        ("source", dict[str, Any]),
        ("student", dict[str, Any]),
        ("distill", dict[str, Any]),
        ("evaluation", dict[str, Any]),
        ("registration", dict[str, Any]),
    ],
):
    """Resolve the recipe, verify the teacher, and hand every step its section; the parameters are those of the pipelines."""
    form = dict(locals())  # what kfp makes the signature spell out, by name
    from distillery.steps.plan import run

    pipeline = form.pop("pipeline")
    # the form's "" and 0 mean the recipe's own value; the cluster's are amounts, and go as they are
    given = {name: value for name, value in form.items() if value or name.startswith("k8s_")}
    sections = run(pipeline, given)
    names = ("statistics", "generator", "shards", "materialize", "source", "student", "distill", "evaluation", "registration")
    return tuple(sections.get(name, [] if name == "shards" else {}) for name in names)
