"""Weights that a student begins with are those of such a student, or are refused by what differs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.errors import CheckpointMismatchError, ConfigError, MissingResourceError, StoreError
from distillery.models.bundle import VerifiedBundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.recipes.sections import StudentSection
from distillery.runtime import resolve_runtime
from distillery.students.plan import StudentConfig
from distillery.types import Classifier, ImageSpec
from distillery.workbench.assembly import build_student
from distillery.workbench.weights import open_planned_weights, open_weights, weights_inputs

SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
SMALL = Architecture(name="resnet8", arguments={"base_width": 8})
NAMES = ("a", "b", "c")
STUDENT = StudentConfig(architecture=SMALL)


def classifier(architecture: Architecture = SMALL, spec: ImageSpec = SPEC, names: tuple[str, ...] = NAMES, task: Any = None) -> Classifier:
    more = {"task": task} if task else {}
    return Classifier(build_network(architecture, spec, len(names)), spec, names, **more)


def saved(folder: Path, architecture: Architecture = SMALL, **more: Any) -> VerifiedBundle:
    save_classifier(folder, classifier(architecture, **more), architecture, Provenance(code_version="1"))
    return VerifiedBundle(folder)


def test_the_student_is_what_was_given_whatever_its_seed(tmp_path: Path) -> None:
    given = saved(tmp_path / "one")
    found = open_weights(str(tmp_path / "one"), STUDENT, classifier())
    assert weights_inputs(found) == {"student_start": given.sha256}
    for seed in (0, 1):
        student = build_student(SMALL, classifier(), resolve_runtime("cpu"), seed, start=found)
        assert all(map(torch.equal, student.state_dict().values(), given.classifier.state_dict().values()))
        assert all(parameter.requires_grad for parameter in student.parameters())
    assert open_weights("", STUDENT, classifier()) is None
    assert weights_inputs(None) == {}


def test_a_default_that_is_written_out_is_the_same_network(tmp_path: Path) -> None:
    saved(tmp_path / "one", Architecture(name="resnet8", arguments={"base_width": 16}))
    assert open_weights(str(tmp_path / "one"), StudentConfig(architecture=Architecture(name="resnet8")), classifier())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"architecture": Architecture(name="resnet14", arguments={"base_width": 8})},
            r"are of resnet14 \(base_width 8\), and the student is",
        ),
        ({"architecture": Architecture(name="resnet8")}, r"are of resnet8, and the student is resnet8 \(base_width 8\)"),
        ({"spec": SPEC.model_copy(update={"height": 16})}, "height = 16, and the teacher's have height = 8"),
        ({"spec": SPEC.model_copy(update={"mean": (0.4,)})}, r"mean = \(0.4,\), and the teacher's have mean = \(0.5,\)"),
        ({"names": ("a", "b")}, "tell 2 classes apart, and the student 3"),
        ({"names": ("a", "c", "b")}, "call a class 'c' which the student calls 'b'"),
        ({"task": "segmentation"}, "are for segmentation, and the teacher for classification"),
    ],
)
def test_others_are_refused_by_what_differs(other: dict[str, Any], said: str, tmp_path: Path) -> None:
    saved(tmp_path / "one", **{"architecture": SMALL, **other})
    with pytest.raises(ConfigError, match=f"cannot begin with the weights of .*one': they .*{said}") as refused:
        open_weights(str(tmp_path / "one"), STUDENT, classifier())
    assert str(refused.value).count(". ") == 0


def test_a_student_of_other_classes_begins_with_one_of_these(tmp_path: Path) -> None:
    saved(tmp_path / "one", names=("x", "y"))
    student = StudentConfig(architecture=SMALL, classes=("x", "y"))
    assert open_weights(str(tmp_path / "one"), student, classifier())
    with pytest.raises(ConfigError, match="tell 2 classes apart, and the student 3"):
        open_weights(str(tmp_path / "one"), STUDENT, classifier())


def test_what_is_not_there_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="There is no bundle"):
        open_weights(str(tmp_path / "nowhere"), STUDENT, classifier())
    saved(tmp_path / "one")
    weights = tmp_path / "one" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StoreError, match="fail their sha256"):
        open_weights(str(tmp_path / "one"), STUDENT, classifier())


def test_a_step_takes_what_its_plan_saw(tmp_path: Path) -> None:
    given, uri = saved(tmp_path / "one"), str(tmp_path / "one")
    common = {"seed": 0, "code_version": code_version(), "teacher_sha256": "t", "student": STUDENT}
    planned = StudentSection.parse({**common, "student_start_sha256": given.sha256})
    found = open_planned_weights(planned, uri, classifier())
    assert found is not None
    assert found.sha256 == given.sha256
    with pytest.raises(ConfigError, match="--student-start = '', but the run was planned with weights"):
        open_planned_weights(planned, "", classifier())
    with pytest.raises(ConfigError, match="planned without weights"):
        open_planned_weights(StudentSection.parse(common), uri, classifier())
    torch.manual_seed(7)
    saved(tmp_path / "one")
    with pytest.raises(CheckpointMismatchError, match=f"had {given.sha256[:12]} when the run was planned: plan it again"):
        open_planned_weights(planned, uri, classifier())
