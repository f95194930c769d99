"""What a submitted form is refused for, before a cluster is asked: Kubeflow takes all of it and fails later, or for every task."""

from typing import Any

import pytest

from distillery.errors import ConfigError
from distillery_kfp.pipelines.form import ALL, check_form, fields, literals, required

COMMON: dict[str, Any] = {"teacher_uri": "s3://models/teacher", "run_profile": "gke-l4", "k8s_overrides": {"large.memory_limit": "64Gi"}}


GIVEN = ("student_distillation", "image_statistics")
"""Pipelines that take images which are there."""
STATISTICS = ("class_statistics", "image_statistics")


def good(pipeline: str) -> dict[str, Any]:
    """What every form must be given, and what the pipeline's own must be beside."""
    return {**COMMON, **({"images_uri": "s3://sets/one"} if pipeline in GIVEN else {})}


@pytest.mark.parametrize("pipeline", ALL)
def test_a_good_form(pipeline: str) -> None:
    assert set(required(pipeline)) == {name for name in good(pipeline) if name.endswith("_uri")}
    check_form(pipeline, good(pipeline))
    check_form(pipeline, {**good(pipeline), "k8s_credentials": "team-a-keys", "k8s_settings": "settings-2", "run_seed": 3})


@pytest.mark.parametrize("pipeline", ALL)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"k8s_credentials": ""}, "k8s_credentials = '' is not allowed: name a Secret of the namespace"),
        ({"k8s_settings": ""}, "k8s_settings = '' is not allowed: name a ConfigMap of the namespace"),
        ({"k8s_credentials": " "}, "k8s_credentials = ' ' is not allowed"),
        ({"k8s_credentials": "Keys"}, "k8s_credentials = 'Keys' is not allowed"),
        ({"k8s_credentials": "a_b"}, "k8s_credentials = 'a_b' is not allowed"),
        ({"k8s_settings": "-a"}, "k8s_settings = '-a' is not allowed"),
        ({"k8s_settings": "a.b"}, "k8s_settings = 'a.b' is not allowed"),
        ({"k8s_settings": "a" * 64}, "k8s_settings = "),
        ({"k8s_credentials": None}, "k8s_credentials = None is not allowed"),
        ({"teacher_uri": ""}, "--teacher is missing: Folder or URI of the teacher's bundle"),
        ({"teacher_uri": "  "}, "--teacher is missing"),
        ({"run_profile": "gke"}, "There is no profile 'gke'; known: aks-a100, cpu, "),
        ({"run_profile": ""}, "There is no profile ''; known: "),
        ({"k8s_overrides": {"large.accelerators": "8"}}, "k8s_overrides.large.accelerators = '8' is not allowed: a step works on one"),
        ({"k8s_overrides": "large"}, "k8s_overrides = 'large' is not allowed: give a mapping"),
        ({"run_profil": "cpu"}, "Pipeline "),
        ({"k8s_gpu_limit": "1"}, "Pipeline "),
        ({"run_seed": -1}, "--seed = -1 is not allowed"),
    ],
)
def test_one_sentence(pipeline: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_form(pipeline, {**good(pipeline), **fields})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("pipeline", ALL)
def test_a_teacher_is_required(pipeline: str) -> None:
    with pytest.raises(ConfigError, match=r"^--teacher is missing"):
        check_form(pipeline, {"run_seed": 1})


@pytest.mark.parametrize("pipeline", ALL)
def test_a_set_is_required_where_nothing_is_synthesized_and_means_nothing_elsewhere(pipeline: str) -> None:
    if pipeline in GIVEN:
        with pytest.raises(ConfigError, match=r"^--images is missing: Set made before, or real images"):
            check_form(pipeline, COMMON)
        return
    with pytest.raises(
        ConfigError, match=r"^--images = 's3://sets/one' means nothing to .*, or run student_distillation or image_statistics[.]$"
    ):
        check_form(pipeline, {**COMMON, "images_uri": "s3://sets/one"})


@pytest.mark.parametrize("pipeline", ALL)
def test_plans_of_a_student_are_a_choice_and_those_that_need_labels_are_offered_for_real_images_only(pipeline: str) -> None:
    if pipeline in STATISTICS:
        assert set(literals(pipeline)) == {"run_recipe"}, "no student is trained"
        return
    offered = literals(pipeline)["student_method"]
    assert offered[0] == "", "the recipe's own"
    assert {"kd", "fsp-kd", "fitnets"} <= set(offered)
    assert ({"plain", "fsp"} <= set(offered)) == (pipeline == "student_distillation")


@pytest.mark.parametrize("pipeline", ALL)
def test_images_of_each_class_are_asked_for_where_some_are_inverted_for_statistics(pipeline: str) -> None:
    assert ("synth_per_class" in fields(pipeline)) == (pipeline == "class_statistics")
    assert bool({"synth_size", "student_architecture", "eval_data_uri", "mlflow_model_name"} & set(fields(pipeline))) == (
        pipeline not in STATISTICS
    )
    if pipeline != "class_statistics":
        with pytest.raises(ConfigError, match=r"^synth_per_class = 5 means nothing to .*, or run class_statistics[.]$"):
            check_form(pipeline, {**good(pipeline), "synth_per_class": 5})
