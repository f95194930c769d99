"""Objectives on features: their layers, their modules, what they refuse, on networks of the table."""

from typing import Any

import pytest
import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.losses.features import fsp_distance, fsp_matrix
from distillery.models.catalog import Architecture, build_network
from distillery.seeding import seeded, stream
from distillery.students.attention import AttentionConfig
from distillery.students.check import check_labels, check_stages
from distillery.students.cross_entropy import CrossEntropyConfig
from distillery.students.fitnets import FitNetsConfig, find_relation
from distillery.students.fsp import FSPConfig
from distillery.students.objective import Tap
from distillery.students.plan import StageConfig
from distillery.students.stage import StageObjectives
from distillery.types import Classifier
from fakes import CLASSES, SPEC

PAIR = {"teacher": ["network.stem", "network.blocks.0"], "student": ["network.stem", "network.blocks.0"]}


def network(name: str = "wrn_10_1", device: str = "cpu", **arguments: Any) -> Classifier:
    with torch.device(device), seeded(2, name):
        return Classifier(build_network(Architecture(name=name, arguments={"base_width": 8, **arguments}), SPEC, 4), SPEC, CLASSES)


def images() -> Tensor:
    return torch.rand(6, *SPEC.shape, generator=stream(0, "images"))


def at_work(teacher: Classifier, student: Classifier, *objectives: dict[str, Any]) -> StageObjectives:
    found = StageObjectives(StageConfig(objectives=objectives), teacher, student)
    found.build_modules(3, "student", "objectives", 0)
    return found


def refused(objective: dict[str, Any], teacher: Classifier, student: Classifier) -> str:
    with pytest.raises(ConfigError) as caught:
        check_stages((StageConfig(objectives=(objective,)),), teacher.freeze(), student)
    sentence = str(caught.value)
    assert sentence.startswith("student.stages.0 cannot be trained: ")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", ["fsp", "fitnets", "attention"])
@pytest.mark.parametrize("pair", [("wrn_10_1", "wrn_10_1"), ("resnet26", "resnet8"), ("resnet18", "resnet18"), ("vgg11_bn", "vgg8_bn")])
def test_every_objective_on_features_finds_its_layers_and_moves_the_student(name: str, pair: tuple[str, str]) -> None:
    check_stages((StageConfig(objectives=({"name": name},)),), network(pair[0], "meta").freeze(), network(pair[1], "meta"))


def test_fsp_takes_the_matrices_between_consecutive_ends(teacher: Classifier, student: Classifier) -> None:
    work = at_work(teacher, student, {"name": "fsp", "weight": 3.0})
    seen = work.see(images())
    ends = ["network.stem", "network.blocks.0", "network.blocks.1", "network.blocks.2"]
    assert list(seen.teacher) == list(seen.student) == [Tap(end) for end in ends]
    expected = torch.zeros(())
    for one, other in zip(ends, ends[1:], strict=False):
        sides = [fsp_matrix(features[Tap(one)], features[Tap(other)]) for features in (seen.teacher, seen.student)]
        expected = expected + fsp_distance(*sides)
    torch.testing.assert_close(work.terms(seen)["fsp"], 3 * expected)


def test_fsp_weighs_pools_and_reduces_as_told(teacher: Classifier, student: Classifier) -> None:
    def term(**settings: Any) -> float:
        work = at_work(teacher, student, {"name": "fsp", **settings})
        return work.terms(work.see(images()))["fsp"].item()

    alone = [term(pair_weights=[float(place == number) for place in range(3)]) for number in range(3)]
    assert term() == pytest.approx(sum(alone), rel=1e-5)
    assert term(pair_weights=[2, 0, 0.5]) == pytest.approx(2 * alone[0] + 0.5 * alone[2], rel=1e-5)
    assert term(pairs=[PAIR]) == pytest.approx(alone[0], rel=1e-5)
    assert term(pairs=[PAIR], reduction="mean") == pytest.approx(alone[0] / 64, rel=1e-5)
    assert term(pooling="average") != pytest.approx(term(), rel=1e-3)
    assert term(pairs=[PAIR], pooling="average") == pytest.approx(alone[0], rel=1e-6), "maps of one size are not pooled"
    alike = at_work(teacher, teacher, {"name": "fsp", "pooling": "average"})
    assert alike.terms(alike.see(images()))["fsp"] == 0, "both networks' maps are pooled in one way"


def test_a_shuffled_control_reads_the_teachers_entries_in_one_other_order(teacher: Classifier) -> None:
    work = at_work(teacher, teacher, {"name": "fsp", "pairs": [PAIR], "shuffled": True})
    order = work.modules["fsp"]["order0"].order
    assert sorted(order.tolist()) == list(range(64)) != order.tolist()
    seen = work.see(images())
    matrix = fsp_matrix(*(seen.teacher[Tap.parse(path)] for path in PAIR["teacher"]))
    moved = torch.stack([one.flatten()[order].view(8, 8) for one in matrix])
    torch.testing.assert_close(work.terms(seen)["fsp"], fsp_distance(moved, matrix))
    plain = at_work(teacher, teacher, {"name": "fsp", "pairs": [PAIR]})
    assert plain.terms(plain.see(images()))["fsp"] == 0


def test_a_projection_stands_where_widths_differ_and_is_trained(teacher: Classifier) -> None:
    narrow = network("resnet8", base_width=4)
    work = at_work(teacher, narrow, {"name": "fsp", "projection": True})
    shapes = {name: tuple(part.weight.shape) for name, part in work.modules["fsp"].items()}
    assert shapes == {
        **{f"start{number}": (8 * 2 ** max(number - 1, 0), 4 * 2 ** max(number - 1, 0), 1, 1) for number in range(3)},
        **{f"end{number}": (8 * 2**number, 4 * 2**number, 1, 1) for number in range(3)},
    }
    work.terms(work.see(images()))["fsp"].backward()
    assert all(part.weight.grad.any() for part in work.modules["fsp"].values())
    assert not at_work(teacher, network(), {"name": "fsp", "projection": True}).modules


def test_fitnets_takes_the_middle_stages_of_unlike_networks(teacher: Classifier) -> None:
    work = at_work(teacher, network("resnet18"), {"name": "fitnets", "weight": 2.0})
    assert [*work.see(images()).teacher] == [Tap("network.blocks.1")]
    assert [*work.see(images()).student] == [Tap("network.blocks.3")]
    terms = work.terms(work.see(images()))
    terms["hint"].backward()
    assert list(terms) == ["hint"]
    moved = {name for name, parameter in work.student.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert moved
    assert not any(name.startswith(("network.blocks.4", "network.head")) for name in moved), "nothing behind the guided layer"


def test_sizes_are_related_as_the_comparisons_have_it() -> None:
    assert [find_relation(*pair) for pair in ((8, 4), (4, 8), (4, 4), (7, 4), (4, 7), (2, 1))] == [
        "twice",
        "half",
        "larger",
        "larger",
        "",
        "twice",
    ]


def test_attention_refuses_maps_of_one_place_which_all_look_at_it(teacher: Classifier) -> None:
    spec = SPEC.model_copy(update={"height": 4, "width": 4})
    small = Classifier(teacher.network, spec, CLASSES)
    at_work(small, small, {"name": "attention"}, {"name": "kd"})  # its last stage alone has one place
    pair = {"name": "attention", "pairs": [["network.blocks.1", "network.blocks.1"], ["network.blocks.2", "network.blocks.2"]]}
    said = "network.blocks.2 of the teacher and network.blocks.2 of the student meet in maps of 1x1, which have one place to look at"
    assert said in refused(pair, small, small)
    tiny = Classifier(teacher.network, SPEC.model_copy(update={"height": 1, "width": 1}), CLASSES)
    assert "meet in maps of 1x1" in refused({"name": "attention"}, tiny, tiny)


def test_attention_compares_every_stage_but_the_stem(teacher: Classifier) -> None:
    work = at_work(teacher, network("resnet8", base_width=4), {"name": "attention"}, {"name": "kd"})
    seen = work.see(images())
    assert [*seen.student] == [Tap(f"network.blocks.{stage}") for stage in range(3)]
    terms = work.terms(seen)
    assert list(terms) == ["attention", "kd"]
    assert terms["attention"] > 0
    one = at_work(teacher, network("resnet8", base_width=4), {"name": "attention", "pairs": [["network.stem", "network.blocks.2"]]})
    assert [*one.see(images()).teacher] == [Tap("network.stem")]


def test_plain_training_runs_no_teacher(teacher: Classifier, student: Classifier) -> None:
    work = at_work(teacher, student, {"name": "cross_entropy", "weight": 2.0})
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    seen = work.see(images(), labels)
    assert seen.teacher_logits is None
    rows = [-row.log_softmax(0)[label].item() for row, label in zip(seen.student_logits, labels, strict=True)]
    assert work.terms(seen)["cross_entropy"].item() == pytest.approx(2 * sum(rows) / 6, rel=1e-5)
    with pytest.raises(ConfigError, match="objective cross_entropy of student.stages.0 needs true labels, which synthetic images do not"):
        check_labels((StageConfig(objectives=({"name": "cross_entropy"},)),))


def test_layers_of_unequal_width_name_both_and_what_solves_it() -> None:
    sentence = refused({"name": "fsp"}, network(device="meta"), network(device="meta", base_width=12))
    assert "network.stem of the teacher has 8 channels and network.stem of the student 12" in sentence
    assert "set projection: true, which trains a 1x1 convolution from 12 to 8" in sentence


@pytest.mark.parametrize("name", ["fsp", "attention"])
def test_unequal_numbers_of_stages_are_counted(name: str) -> None:
    sentence = refused({"name": name}, network("resnet18", "meta"), network("resnet8", "meta"))
    assert "The teacher's maps have 5 stages (network.stem, network.blocks.1, " in sentence
    assert "and the student's 4 (network.stem, " in sentence
    assert "take a student of as many stages, or name layers by pairs" in sentence


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (
            {"name": "fsp", "pairs": [{**PAIR, "student": ["network.stem", "network.block.0"]}]},
            "fsp reads 'network.block.0' of the student, which has no such layer: near it are network.blocks",
        ),
        ({"name": "fsp", "pair_weights": [1, 2]}, "pair_weights has 2 values, but the layers make 3 pairs: give 3, or none"),
        ({"name": "attention", "pairs": [["network.stem", ""]]}, "The layer '' has no path: give a module's, as named_modules() has it"),
        ({"name": "attention", "pairs": [[":input", "network.stem"]]}, "The layer ':input' has no path"),
        ({"name": "fsp", "pair_weights": [1]}, "pair_weights has 1 value, but the layers make 3 pairs: give 3, or none"),
        ({"name": "attention", "pairs": [["network.stem", "network.head"]]}, "but network.head of the student gives (N, 4): name another"),
        (
            {"name": "fitnets", "teacher": "network.stem", "student": "network.blocks.2"},
            "from network.blocks.2 of the student, 2x2, to network.stem of the teacher, 8x8: take layers of equal size, or a student's",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(objective: dict[str, Any], words: str) -> None:
    assert words in refused(objective, network(device="meta"), network(device="meta"))


@pytest.mark.parametrize("name", ["fsp", "fitnets", "attention"])
def test_segmenters_are_refused(name: str) -> None:
    def segmenter() -> Classifier:
        with torch.device("meta"):
            parts = torch.nn.Sequential(
                torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.Conv2d(6, 8, 3, 2, 1), torch.nn.Upsample(scale_factor=2)
            )
            return Classifier(torch.nn.Sequential(parts, torch.nn.Conv2d(8, 4, 1)), SPEC, CLASSES, task="segmentation")

    sentence = refused({"name": name}, segmenter(), segmenter())
    assert f"{name} compares features of classifiers, but these are segmenters, which answer pixel by pixel: take kd" in sentence


def test_networks_without_stages_are_asked_for_layers() -> None:
    flat = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)), SPEC, CLASSES)
    assert "The student, a Sequential, has no stages that could be found: name layers by pairs." in refused(
        {"name": "fsp"}, network(), flat
    )


@pytest.mark.parametrize(
    ("config", "value", "sentence"),
    [
        (FSPConfig, {"weight": 0}, "weight is 0: leave the objective out"),
        (FSPConfig, {"pair_weights": [0, 0]}, "must be 0 or more, one of them above 0"),
        (FSPConfig, {"pair_weights": [1, -1]}, "must be 0 or more"),
        (FSPConfig, {"pairs": [PAIR], "pair_weights": [1, 1]}, "pair_weights has 2 values for 1 pair: give one each, or none"),
        (FSPConfig, {"pooling": "mean"}, "pooling = 'mean' is not allowed"),
        (FitNetsConfig, {"teacher": "network.stem"}, "teacher and student name a layer each: give both, or neither"),
        (AttentionConfig, {"weight": 0}, "weight is 0: leave the objective out"),
        (CrossEntropyConfig, {"weight": 0}, "weight is 0: leave the objective out"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(config: type[Any], value: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config.parse(value)
