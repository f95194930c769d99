"""A plan tried before anything is trained, on tensors without numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distillery.errors import ConfigError
from distillery.models.catalog import Architecture, build_network
from distillery.students.catalog import OBJECTIVES, ObjectiveRow
from distillery.students.check import check_classes, check_labels, check_stages, looks_inside
from distillery.students.kd import KDConfig
from distillery.students.objective import Objective
from distillery.students.plan import StageConfig, StudentConfig
from distillery.types import Classifier
from fakes import CLASSES, SPEC

KD = {"name": "kd", "hard": 0.5}
HINT = {"name": "hint", "teacher": "network.blocks.1", "student": "network.blocks.1"}


def meta(name: str = "wrn_10_1", width: int = 8) -> Classifier:
    with torch.device("meta"):
        return Classifier(build_network(Architecture(name=name, arguments={"base_width": width}), SPEC, 4), SPEC, CLASSES)


def stage(*objectives: dict[str, Any], trains: Any = "all") -> StageConfig:
    return StageConfig(objectives=objectives, trains=trains)


def plan(*stages: dict[str, Any]) -> tuple[StageConfig, ...]:
    """The toys stand in the catalog while a test runs, and not yet when it is collected."""
    return tuple(StageConfig.parse(each) for each in stages)


@pytest.mark.parametrize(
    "stages",
    [
        [{"objectives": [KD]}],
        [{"objectives": [{"name": "matrix"}]}, {"objectives": [KD]}],
        [
            {"objectives": [HINT], "trains": ["network.stem", "network.blocks"]},
            {"objectives": [KD, {"name": "gaze"}, {"name": "true_labels"}]},
        ],
        [{"objectives": [KD], "trains": ["network.head"]}],
    ],
)
def test_a_sound_plan_passes_without_a_number_being_computed(stages: list[dict[str, Any]]) -> None:
    check_stages(plan(*stages), meta().freeze(), meta())


@pytest.mark.parametrize(
    ("objectives", "trains", "sentence"),
    [
        ([{**HINT, "student": "network.block.1"}], "all", "reads 'network.block.1' of the student, which has no such layer: near it are"),
        ([{**HINT, "teacher": "network.blocks.7"}], "all", "reads 'network.blocks.7' of the teacher, which has no such layer: near it"),
        ([{**HINT, "student": "network.blocks.2"}], "all", r"network.blocks.1 of the teacher is \(4, 4\) and network.blocks.2 of the st"),
        ([KD, {**HINT, "student": "network.blocks.2"}], "all", r"trained: objectives\.1: .*network\.blocks\.2 of the st"),
        ([KD], ["network.tail"], "'network.tail' names no module of the student: give 'all', or its paths; near it are"),
        ([HINT], ["network.head"], "term 'hint' moves no weight of network.head: train what comes before the layers"),
        ([KD, HINT], ["network.blocks.2"], "term 'hint' moves no weight of network.blocks.2"),
        ([HINT], ["network.stem", "network.head"], "No term of the stage moves a weight of 'network.head': leave it out of trains"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_with_its_stage(objectives: list[dict[str, Any]], trains: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        check_stages(plan({"objectives": [KD]}, {"objectives": objectives, "trains": trains}), meta().freeze(), meta())
    assert str(caught.value).startswith("student.stages.1 cannot be trained: ")
    assert "\n" not in str(caught.value)


def test_unequal_widths_and_numbers_of_stages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="network.stem of the teacher has 8 channels and network.stem of the student 12"):
        check_stages((stage({"name": "matrix"}),), meta().freeze(), meta(width=12))
    with pytest.raises(ConfigError, match="The teacher has 5 stages and the student 4: give pairs"):
        check_stages((stage({"name": "matrix"}),), meta("resnet18").freeze(), meta())


class Cut(nn.Module):
    """Features from which no gradient comes back."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.inner, self.head = how, nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, value: Tensor) -> Tensor:
        value = self.conv(value)
        if self.how == "reentrant":
            value = checkpoint(lambda it: self.inner(it).relu(), value, use_reentrant=True)
        else:
            self.inner(value.detach())
        return self.head(value.mean((2, 3)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of a reentrant checkpoint that only shows its sizes
@pytest.mark.parametrize("how", ["reentrant", "detached"])
def test_features_without_a_way_back_to_what_is_trained_are_refused(how: str) -> None:
    student = Classifier(Cut(how), SPEC, CLASSES)
    hint = {**HINT, "student": "network.inner"}
    teacher = Classifier(build_network(Architecture(name="wrn_10_1", arguments={"base_width": 8}), SPEC, 4), SPEC, CLASSES).freeze()
    with pytest.raises(ConfigError, match="term 'hint' moves no weight of network.conv: train what comes before"):
        check_stages((stage(KD, hint, trains=["network.conv"]),), teacher, student)
    check_stages((stage(KD, {**hint, "student": "network.conv"}, trains=["network.conv"]),), teacher, student)


def test_true_labels_are_asked_for_by_name() -> None:
    check_labels((stage(KD),))
    with pytest.raises(ConfigError, match="objective true_labels of student.stages.1 needs true labels, which synthetic images do not"):
        check_labels((stage(KD), stage(KD, {"name": "true_labels"})))


def student_of(classes: Any) -> StudentConfig:
    return StudentConfig.parse({"architecture": {"name": "resnet8"}, "classes": classes})


def test_other_classes_than_the_teachers_are_named_or_counted() -> None:
    assert student_of(0).class_names(CLASSES) == CLASSES
    assert student_of(3.0).class_names(CLASSES) == ("0", "1", "2")
    assert student_of(["cat", "dog"]).class_names(CLASSES) == ("cat", "dog")
    for wrong in (1, -1, ["cat"], ["cat", "cat"]):
        with pytest.raises(ConfigError, match="give at least 2 classes, as a number or as a list of different names, or 0"):
            student_of(wrong)
    check_classes(student_of(0))
    with pytest.raises(ConfigError, match="student.classes = 3 are others than the teacher's, which synthetic images cannot show"):
        check_classes(student_of(3))


def test_kd_of_other_classes_is_refused() -> None:
    with torch.device("meta"):
        student = Classifier(build_network(Architecture(name="wrn_10_1"), SPEC, 7), SPEC, tuple("abcdefg"))
    with pytest.raises(ConfigError, match="the teacher has 4 classes and the student 7: take fsp"):
        check_stages((stage(KD),), meta().freeze(), student)


def test_a_need_is_lifted_by_its_weight_or_by_nothing() -> None:
    row = ObjectiveRow(name="x", title="X", paper="none", summary="A toy.", implementation="x:X", needs={"labels": "hard", "features": ""})
    assert row.required(KDConfig(hard=0.5)) == ("labels", "features")
    assert row.required(KDConfig(hard=0.0)) == ("features",)


def test_a_plan_that_names_no_part_needs_no_networks() -> None:
    assert not looks_inside((stage(KD), stage({"name": "true_labels"})))
    assert looks_inside((stage(KD), stage(KD, trains=["network.head"])))
    assert looks_inside((stage(KD, {"name": "gaze"}),))


@pytest.mark.parametrize("name", sorted({*OBJECTIVES, "matrix", "hint", "gaze", "true_labels"}))
def test_a_row_says_whether_its_objective_reads_features_and_its_config_its_name(name: str) -> None:
    row = OBJECTIVES[name]
    objective, config = row.load()
    assert Objective in objective.__mro__
    assert ("features" in row.needs) == (objective.taps is not Objective.taps)
    assert config.model_fields["name"].default == name == row.name
    assert all(weight in config.model_fields for weight in row.needs.values() if weight)
    assert row.title
    assert row.paper
    assert row.summary.endswith(".")
