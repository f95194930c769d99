import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery.documents import seal
from distillery.errors import CheckpointMismatchError, ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.placement.profiles import find_profile
from distillery.provenance import Provenance, code_version
from distillery.recipes.loader import load_document
from distillery.recipes.sections import SECTIONS, DistillSection, MaterializeSection
from distillery.step_table import PIPELINES
from distillery.steps.plan import PLACED, run
from distillery.types import Classifier, ImageSpec

ONLINE, OFFLINE = "online_distillation", "generative_distillation"
NAMES = tuple("0123456789")


def save_teacher(folder: Path, architecture: str = "wrn_10_1", size: int = 16, classes: tuple[str, ...] = NAMES, **arguments: Any) -> str:
    spec = ImageSpec(channels=1, height=size, width=size, mean=(0.5,), std=(0.25,))
    chosen = Architecture(name=architecture, arguments=arguments)
    classifier = Classifier(build_network(chosen, spec, len(classes)), spec, classes)
    return save_classifier(folder, classifier, chosen, Provenance(code_version="test"))


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    return {"teacher_uri": str(tmp_path / "teacher"), "sha256": save_teacher(tmp_path / "teacher")}


def plan(pipeline: str, teacher: dict[str, str], **parameters: Any) -> dict[str, dict[str, Any]]:
    return run(pipeline, {"teacher_uri": teacher["teacher_uri"], **parameters})


@pytest.mark.parametrize("pipeline", [ONLINE, OFFLINE])
def test_every_step_gets_its_section(teacher: dict[str, str], pipeline: str) -> None:
    sections = plan(pipeline, teacher, run_seed=5.0, run_salt="again")
    assert tuple(sections) == PIPELINES[pipeline].sections
    for name in sections:
        cls = SECTIONS[name]
        parsed = cls.parse(sections[name])
        assert parsed.to_json() == sections[name]
        assert (parsed.seed, parsed.salt, parsed.teacher_sha256) == (5, "again", teacher["sha256"])
        assert parsed.code_version == code_version()
        assert "None" not in str(sections[name])


@pytest.mark.parametrize("pipeline", [ONLINE, OFFLINE])
def test_a_teacher_of_another_task_is_refused_with_what_is_supported(teacher: dict[str, str], pipeline: str) -> None:
    path = Path(teacher["teacher_uri"]) / "bundle.json"
    path.write_bytes(seal({**json.loads(path.read_bytes()), "version": 4, "task": "segmentation"}))
    with pytest.raises(ConfigError, match="task is segmentation, and what is distilled are networks of the task classification"):
        plan(pipeline, teacher)


def test_the_recipe_reaches_the_sections(teacher: dict[str, str]) -> None:
    overrides = {"set.holdout": 0.1, "synthesis.closing_rounds": 3}
    section = DistillSection.parse(plan(ONLINE, teacher, run_overrides=overrides)["distill"])
    written = load_document("fast_dfkd/digits")["synthesis"]
    names = ("method", "rounds", "student_steps_per_turn", "feed", "checkpoint_every")
    assert {name: getattr(section, name) for name in names} == {name: written[name] for name in names}
    assert (section.holdout, section.closing_rounds) == (0.1, 3)
    assert section.method_config["label_weight"] == 4.0
    assert section.student.architecture == Architecture(name="resnet8", arguments={"base_width": 16})
    assert MaterializeSection.parse(plan(OFFLINE, teacher)["materialize"]).set.size == 6000


def test_fields_of_the_form_replace_and_overrides_come_last(teacher: dict[str, str]) -> None:
    fields = {"gen_rounds": 3.0, "synth_size": 500.0, "student_architecture": "lenet5", "mlflow_model_name": "mine"}
    sections = plan(OFFLINE, teacher, **fields, run_overrides={"set.size": 400, "set.batch": 50})
    assert sections["generator"]["rounds"] == 3
    assert (sections["materialize"]["set"]["size"], sections["materialize"]["set"]["batch"]) == (400, 50)
    assert sections["student"]["student"]["architecture"] == {"name": "lenet5", "arguments": {}}
    assert sections["registration"]["registration"]["model_name"] == "mine"


def test_the_forms_student_takes_its_arguments_from_the_overrides_alone(teacher: dict[str, str]) -> None:
    overrides = {"student.architecture.arguments.batch_norm": True}
    sections = plan(ONLINE, teacher, student_architecture="lenet5", run_overrides=overrides)
    assert sections["distill"]["student"]["architecture"] == {"name": "lenet5", "arguments": {"batch_norm": True}}
    named = plan(ONLINE, teacher, run_overrides={"student.architecture.name": "lenet5"})
    assert named["distill"]["student"]["architecture"] == {"name": "lenet5", "arguments": {}}


def test_equal_plans_are_equal_whatever_run_they_belong_to(teacher: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "first")
    first = plan(ONLINE, teacher)
    monkeypatch.setenv("KFP_RUN_ID", "second")
    assert plan(ONLINE, teacher) == first
    assert "first" not in json.dumps(first)
    assert teacher["teacher_uri"] not in json.dumps(first)


def test_run_json_suffices_to_run_again(teacher: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "abc")
    sections = plan(ONLINE, teacher, run_seed=4, run_overrides={"synthesis.rounds": 20})
    document = json.loads((tmp_path / "store" / "runs" / "abc" / "run.json").read_text())
    assert (document["format"], document["version"], document["pipeline"]) == ("distillery-run", 3, ONLINE)
    assert document["provenance"]["inputs"] == {"teacher": teacher["sha256"]}
    assert document["provenance"]["config"]["synthesis"]["rounds"] == 20
    assert run(document["pipeline"], document["parameters"]) == sections == document["sections"]


def test_own_recipe_file(teacher: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: fast_dfkd/digits\nsynthesis: {rounds: 33}\n")
    sections = plan(ONLINE, teacher, run_recipe_uri=str(tmp_path / "mine.yaml"))
    assert (sections["distill"]["rounds"], sections["registration"]["recipe"]) == (33, "mine")


@pytest.mark.parametrize("pipeline", [ONLINE, OFFLINE])
def test_a_renamed_recipe_makes_no_new_work(teacher: dict[str, str], tmp_path: Path, pipeline: str) -> None:
    preset = {ONLINE: "fast_dfkd/digits", OFFLINE: "ls_gdfd/digits"}[pipeline]
    (tmp_path / "renamed.yaml").write_text(f"extends: {preset}\nabout: {{title: Another}}\n")
    named, renamed = plan(pipeline, teacher, run_recipe=preset), plan(pipeline, teacher, run_recipe_uri=str(tmp_path / "renamed.yaml"))
    assert (named.pop("registration")["recipe"], renamed.pop("registration")["recipe"]) == (preset, "renamed")
    assert named == renamed


OWN_NETS = """
from distillery.models.catalog import Architecture, build_network
from distillery.types import ImageSpec

def net(num_classes):
    return build_network(Architecture(name="wrn_10_1"), ImageSpec(channels=1, height=16, width=16, mean=(0.5,), std=(0.25,)), num_classes)
"""
USES_STUDENT = {"student", "distill", "evaluation", "registration"}


@pytest.mark.parametrize("pipeline", [ONLINE, OFFLINE])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_an_edited_module_of_ones_own_is_other_work(
    teacher: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: str, role: str
) -> None:
    folder = tmp_path / f"{role}_of_{pipeline}"
    folder.mkdir()
    (folder / "nets.py").write_text(OWN_NETS)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"{folder.name}.nets:net"
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", f"{folder.name}.nets")
    fields = {"student_architecture": name} if role == "student" else {}
    if role == "teacher":
        save_teacher(tmp_path / "teacher", name)
    before = plan(pipeline, teacher, **fields)
    assert plan(pipeline, teacher, **fields) == before
    (folder / "nets.py").write_text(OWN_NETS + "# edited\n")
    assert plan(pipeline, teacher, **fields) == before
    (folder / "nets.py").write_text(OWN_NETS + "edited = 1\n")
    after = plan(pipeline, teacher, **fields)
    changed = {section for section in after if after[section] != before[section]}
    assert changed == (set(after) if role == "teacher" else USES_STUDENT & set(after))
    assert all(after[section]["sources"].keys() == {folder.name} for section in changed)


def test_pinned_teacher(teacher: dict[str, str]) -> None:
    assert plan(ONLINE, teacher, teacher_sha256=teacher["sha256"])
    with pytest.raises(CheckpointMismatchError, match=f"has sha256 {teacher['sha256']}, but teacher_sha256 asks for abc"):
        plan(ONLINE, teacher, teacher_sha256="abc")


def test_damaged_weights(teacher: dict[str, str], tmp_path: Path) -> None:
    weights = tmp_path / "teacher" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="fail their sha256"):
        plan(ONLINE, teacher)


def test_the_other_pipelines_recipe_names_that_pipeline(teacher: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="FastDFKD, an online method.*run it with online_distillation"):
        plan(OFFLINE, teacher, run_recipe="fast_dfkd/digits")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"run_recipe": "fast_dfkd/digit"}, "no recipe 'fast_dfkd/digit'.*did you mean 'fast_dfkd/digits'"),
        ({"run_recipe": ""}, "RECIPE = '' is not allowed"),
        ({"run_recipe": "mine.yaml"}, "give a file of your own as RECIPE"),
        ({"run_recipe_uri": "fast_dfkd/digits"}, "RECIPE = 'fast_dfkd/digits' is not allowed"),
        ({"run_recipe": "fast_dfkd/cifar10-laptop"}, "expects a teacher with channels = 3, but this one has channels = 1"),
        ({"run_recipe": "fast_dfkd/fashion_mnist"}, "expects a teacher with height = 28, but this one has height = 16"),
        ({"run_overrides": {"expects.classes": 7}}, "expects a teacher with classes = 7, but this one has classes = 10"),
        ({"run_overrides": {"synthesis.config.stps": 1}}, "did you mean 'steps'"),
        ({"student_architecture": "wrn_16"}, "no architecture 'wrn_16'"),
        ({"run_overrides": {"student.architecture.arguments.width": 3}}, "width"),
        ({"student_architecture": "wrn_17_1"}, "17"),
        ({"teacher_uri": ""}, "--teacher is missing"),
        ({"gen_rounds": 10, "run_overrides": {"synthesis.config.warmup": 10}}, "warms up for 10 turns"),
        ({"student_architecture": "torchvision:resnet18"}, "takes images of 3 channels"),
        ({"student_architecture": "absent_module:net"}, "nobody allowed it.*--allow-module absent_module or DISTILLERY_ALLOW_MODULES"),
    ],
)
def test_what_does_not_fit_is_refused(teacher: dict[str, str], parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(ONLINE, teacher, **parameters)


def test_a_failure_leaves_its_sentence_and_an_untouched_store(teacher: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DistilleryError):
        plan(ONLINE, teacher, teacher_uri=str(tmp_path / "nowhere"))
    failure = json.loads((tmp_path / "work" / "errors" / "plan.json").read_text())
    assert "nowhere" in failure["message"]
    assert not (tmp_path / "store").exists()


def test_what_no_cluster_can_place_is_refused_first(teacher: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no profile 'gke'; .*did you mean 'gke-l4'"):
        run(ONLINE, {"run_profile": "gke", "teacher_uri": "nowhere"})
    with pytest.raises(ConfigError, match="large.accelerators = '2' is not allowed: a step works on one accelerator"):
        run(ONLINE, {"run_profile": "nvidia", "k8s_overrides": {"large.accelerators": "2"}, "teacher_uri": "nowhere"})
    assert not (tmp_path / "store").exists()


def test_where_tasks_run_changes_no_work_and_no_record(teacher: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "placed")
    placed = plan(ONLINE, teacher, run_profile="gke-l4", k8s_overrides={"large.memory_limit": "64Gi"})
    places = {name: placed.pop(name) for name in PLACED}
    assert places == {**find_profile("gke-l4").outputs(), "large_memory_limit": "64Gi"}
    assert placed == plan(ONLINE, teacher), "without a word of places nothing is handed out for them"
    record = (tmp_path / "store" / "runs" / "placed" / "run.json").read_text()
    assert "64Gi" not in record
    assert "gke-l4" not in record


def test_missing_teacher(teacher: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no bundle"):
        plan(ONLINE, teacher, teacher_uri=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("pipeline", "method"), [(ONLINE, "fast_dfkd"), (OFFLINE, "ls_gdfd")])
def test_a_teacher_without_batchnorm_is_refused_by_name(teacher: dict[str, str], tmp_path: Path, pipeline: str, method: str) -> None:
    save_teacher(tmp_path / "plain", "lenet5", batch_norm=False)
    with pytest.raises(ConfigError, match=f"^{method} matches BatchNorm statistics.*'lenet5' has no BatchNorm2d.*works without: "):
        plan(pipeline, teacher, teacher_uri=str(tmp_path / "plain"))


def test_a_recipe_that_expects_nothing_takes_any_teacher(teacher: dict[str, str], tmp_path: Path) -> None:
    save_teacher(tmp_path / "three", classes=("a", "b", "c"))
    anything = {"expects": {"channels": 0, "height": 0, "width": 0, "classes": 0}}
    assert plan(ONLINE, teacher, teacher_uri=str(tmp_path / "three"), run_overrides=anything)
    with pytest.raises(ConfigError, match="classes = 10, but this one has classes = 3"):
        plan(ONLINE, teacher, teacher_uri=str(tmp_path / "three"))


@pytest.mark.parametrize(("size", "label", "message"), [(16, 9, ""), (15, 9, "1 x 15 x 15"), (16, 10, "label 10")])
def test_the_test_images_are_checked_before_any_work(teacher: dict[str, str], tmp_path: Path, size: int, label: int, message: str) -> None:
    np.savez(tmp_path / "test.npz", images=np.zeros((3, 1, size, size), np.uint8), labels=np.array([0, 1, label]))
    if not message:
        assert plan(ONLINE, teacher, eval_data_uri=str(tmp_path / "test.npz"))
        return
    with pytest.raises(ConfigError, match=message):
        plan(ONLINE, teacher, eval_data_uri=str(tmp_path / "test.npz"))


def test_unwritable_store(teacher: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "file" / "store"))
    with pytest.raises(StoreError):
        plan(ONLINE, teacher)


def test_a_schedule_of_another_length_warns(teacher: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="distillery.workbench.planning"):
        plan(ONLINE, teacher)
        assert not caplog.records
        plan(ONLINE, teacher, gen_rounds=20, run_overrides={"synthesis.config.warmup": 10, "synthesis.student_steps_per_turn": 20})
    planned = load_document("fast_dfkd/digits")["about"]["student_steps"]
    assert f"trains for 200 steps but its stages are planned for {planned}" in caplog.text
    with caplog.at_level(logging.WARNING, logger="distillery.workbench.planning"):
        plan(ONLINE, teacher, run_overrides={"synthesis.closing_rounds": 3})
    assert f"trains for {planned + 60} steps but its stages are planned for {planned}" in caplog.text


def test_planning_draws_nothing_from_the_global_stream(teacher: dict[str, str]) -> None:
    before = torch.random.get_rng_state()
    plan(ONLINE, teacher)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("pipeline", [ONLINE, OFFLINE])
def test_more_images_than_the_cap_are_refused_before_any_work(teacher: dict[str, str], pipeline: str) -> None:
    size = {"set.size": 100} if pipeline == OFFLINE else {"synthesis.config.batch": 10, "synthesis.config.warmup": 1}
    size["synthesis.rounds"] = 10
    assert plan(pipeline, teacher, run_overrides={**size, "set.max_bytes": 25_600})
    with pytest.raises(ConfigError, match=r"100 images, 25600 bytes, but set\.max_bytes = 25599"):
        plan(pipeline, teacher, run_overrides={**size, "set.max_bytes": 25_599})
