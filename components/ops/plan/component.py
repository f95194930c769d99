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
    run_profile: str,
    k8s_overrides: dict[str, Any],
    profiles: dict[str, Any],
    gen_rounds: int = 0,
    synth_size: int = 0,
    synth_start_uri: str = "",
    images_uri: str = "",
    synth_statistics_uri: str = "",
    synth_ood_uri: str = "",
    synth_per_class: int = 0,
    eval_data_uri: str = "",
    student_architecture: str = "",
    student_method: str = "",
    student_start_uri: str = "",
    mlflow_model_name: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Sections",
    [
        ("statistics", dict[str, Any]),
        ("generator", dict[str, Any]),
        ("shards", list[dict[str, Any]]),
        ("materialize", dict[str, Any]),
        ("source", dict[str, Any]),
        ("class_statistics", dict[str, Any]),
        ("student", dict[str, Any]),
        ("distill", dict[str, Any]),
        ("evaluation", dict[str, Any]),
        ("registration", dict[str, Any]),
        ("small_cpu_request", str),
        ("small_cpu_limit", str),
        ("small_memory_request", str),
        ("small_memory_limit", str),
        ("small_node_selector", dict[str, Any]),
        ("small_tolerations", list[Any]),
        ("medium_cpu_request", str),
        ("medium_cpu_limit", str),
        ("medium_memory_request", str),
        ("medium_memory_limit", str),
        ("medium_node_selector", dict[str, Any]),
        ("medium_tolerations", list[Any]),
        ("medium_accelerator", str),
        ("medium_accelerators", str),
        ("large_cpu_request", str),
        ("large_cpu_limit", str),
        ("large_memory_request", str),
        ("large_memory_limit", str),
        ("large_node_selector", dict[str, Any]),
        ("large_tolerations", list[Any]),
        ("large_accelerator", str),
        ("large_accelerators", str),
    ],
):
    """Resolve the recipe, verify the teacher, and hand every step its section and its place; the parameters are those of the pipelines."""
    form = dict(locals())  # what kfp makes the signature spell out, by name
    from distillery.steps.plan import PLACED, run

    pipeline = form.pop("pipeline")
    given = {name: value for name, value in form.items() if value or name == "run_profile"}  # "" and 0 mean the recipe's own value
    sections = run(pipeline, given)
    made = ("statistics", "generator", "shards", "materialize", "source", "class_statistics")
    names = (*made, "student", "distill", "evaluation", "registration")
    return tuple(sections.get(name, [] if name == "shards" else {}) for name in (*names, *PLACED))
