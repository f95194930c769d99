"""Objectives at work: one pass of each network a step, features where somebody asks, modules of their own, names that tell."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distillery.errors import ConfigError
from distillery.models.catalog import Architecture, build_network
from distillery.seeding import seeded, stream
from distillery.students.objective import Tap
from distillery.students.plan import StageConfig
from distillery.students.stage import StageObjectives
from distillery.types import Classifier
from fakes import CLASSES, SPEC, plain_student, taps_left
from toy_objectives import matrix as matrix_of

HINT = {"name": "hint", "teacher": "network.blocks.1", "student": "network.3"}


def images(n: int = 6) -> Tensor:
    return torch.rand(n, *SPEC.shape, generator=stream(0, "images"))


def at_work(teacher: Classifier, student: Classifier, *objectives: dict[str, Any]) -> StageObjectives:
    found = StageObjectives(StageConfig(objectives=objectives), teacher, student)
    found.build_modules(3, "student", "objectives", 0)
    return found


def test_each_network_runs_once_a_step_whatever_the_objectives_are(teacher: Classifier, student: Classifier) -> None:
    work = at_work(teacher, student, {"name": "kd"}, {"name": "matrix"}, {"name": "gaze"}, {"name": "gaze", "stages": 3})
    passes: list[bool] = []
    for network in (teacher, student):
        network.network.head.register_forward_hook(lambda module, args, result, who=network: passes.append(who is teacher))
    terms = work.terms(work.see(images()))
    assert passes == [True, False]
    assert list(terms) == ["kd", "matrix", "gaze1.gaze", "gaze2.gaze"]
    assert taps_left(teacher) == taps_left(student) == 0


def test_features_are_those_of_the_layers_and_only_the_students_have_a_graph(teacher: Classifier, student: Classifier) -> None:
    work = at_work(teacher, student, {"name": "matrix", "pairs": [["network.stem", "network.blocks.0:input"]]}, {"name": "gaze"})
    seen = work.see(images())
    assert [str(tap) for tap in seen.teacher] == ["network.stem", "network.blocks.0:input", "network.blocks.1", "network.blocks.2"]
    assert list(seen.student) == list(seen.teacher)
    for classifier, features, logits in ((teacher, seen.teacher, seen.teacher_logits), (student, seen.student, seen.student_logits)):
        network = classifier.network
        stem = network.stem(classifier.prepare(images()))
        first = network.blocks[1](network.blocks[0](stem))
        expected = [stem, stem, first, network.blocks[2](first)]
        assert all(torch.equal(one, other) for one, other in zip(features.values(), expected, strict=True))
        assert torch.equal(logits, classifier(images()))
        assert {part.requires_grad for part in (*features.values(), logits)} == {classifier is student}


def test_a_teacher_that_no_objective_needs_does_not_run(teacher: Classifier, student: Classifier) -> None:
    passes: list[str] = []
    teacher.network.head.register_forward_hook(lambda *args: passes.append("teacher"))
    plain = at_work(teacher, student, {"name": "true_labels"})
    seen = plain.see(images(), torch.tensor([0, 1, 2, 3, 0, 1]))
    assert (passes, seen.teacher_logits, plain.needs_teacher) == ([], None, False)
    assert list(plain.terms(seen)) == ["ce"]
    both = at_work(teacher, student, {"name": "true_labels"}, {"name": "kd"})
    assert both.see(images()).teacher_logits is not None
    assert passes == ["teacher"]


def test_nothing_is_tapped_where_no_objective_asks(teacher: Classifier, student: Classifier) -> None:
    work = at_work(teacher, student, {"name": "kd"})
    found: list[int] = []
    for network in (teacher, student):
        network.network.head.register_forward_hook(lambda *args: found.append(taps_left(teacher) + taps_left(student)))
    seen = work.see(images())
    assert found == [0, 0]
    assert seen.teacher == seen.student == {}
    assert list(work.modules.parameters()) == []


def test_objectives_get_full_precision_under_autocast(teacher: Classifier, student: Classifier) -> None:
    work = at_work(teacher, student, {"name": "gaze"})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = work.see(images())
    parts = (seen.teacher_logits, seen.student_logits, *seen.teacher.values(), *seen.student.values())
    assert {part.dtype for part in parts} == {torch.float32}


def test_a_matrix_between_two_layers_is_its_double_loop_in_float64(teacher: Classifier, student: Classifier) -> None:
    """The seam hands over what a slow formula gets from the layers themselves."""
    work = at_work(teacher, student, {"name": "matrix", "pairs": [["network.blocks.0", "network.blocks.1"]], "weight": 2.0})
    expected = 0.0
    for row in images():
        sides = []
        for classifier in (teacher, student):
            network = classifier.network
            start = network.blocks[0](network.stem(classifier.prepare(row[None])))
            end = network.blocks[1](start)[0].double()
            start = nn.functional.max_pool2d(start, 2)[0].double()
            entry = torch.zeros(8, 16, dtype=torch.float64)
            for i in range(4):
                for j in range(4):
                    entry += torch.outer(start[:, i, j], end[:, i, j]) / 16
            sides.append(entry)
        expected += float((sides[0] - sides[1]).detach().square().sum()) / len(images())
    assert work.terms(work.see(images()))["matrix"].item() == pytest.approx(2 * expected, rel=1e-5)
    assert matrix_of(torch.ones(1, 3, 4, 4), torch.ones(1, 5, 2, 2)).tolist() == torch.ones(1, 3, 5).tolist()


def test_a_term_of_two_objectives_stands_behind_its_objectives_name(teacher: Classifier, student: Classifier) -> None:
    work = at_work(teacher, student, {"name": "kd", "hard": 1}, {"name": "true_labels", "weight": 0.5})
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    terms = work.terms(work.see(images(), labels))
    assert list(terms) == ["kd", "kd.ce", "true_labels.ce"]
    assert terms["kd.ce"].item() == pytest.approx(2 * terms["true_labels.ce"].item())


def test_regressors_are_sized_by_the_features_and_drawn_by_name(teacher: Classifier) -> None:
    def weights(seed: int, *names: str | int, objectives: tuple[dict[str, Any], ...] = (HINT,)) -> dict[str, Tensor]:
        work = StageObjectives(StageConfig(objectives=objectives), teacher, plain_student())
        return work.build_modules(seed, *names).state_dict()

    one = weights(3, "stage", 0)
    assert one["hint.regressor.0.weight"].shape == (16, 8, 1, 1)
    torch.manual_seed(99)  # the global stream has no say
    torch.testing.assert_close(one, weights(3, "stage", 0), rtol=0, atol=0)
    for other in (weights(4, "stage", 0), weights(3, "stage", 1)):
        assert not torch.equal(one["hint.regressor.0.weight"], other["hint.regressor.0.weight"])
    two = weights(3, "stage", 0, objectives=(HINT, HINT))
    assert not torch.equal(two["hint1.regressor.0.weight"], two["hint2.regressor.0.weight"])


def test_sizing_leaves_both_networks_and_the_random_stream_as_they_were() -> None:
    class Counts(nn.Module):
        """Counts passes in eval mode too, and draws."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3, 4)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, value: Tensor) -> Tensor:
            self.passes += 1
            return self.head(self.conv(value).mean((2, 3)) + torch.rand(3))

    teacher, student = (Classifier(Counts(), SPEC, CLASSES) for _ in range(2))
    student.train()
    student.network.conv.eval()
    before = torch.get_rng_state()
    at_work(teacher.freeze(), student, {**HINT, "teacher": "network.conv", "student": "network.conv"})
    assert (float(teacher.network.passes), float(student.network.passes)) == (0, 0)
    assert (student.training, student.network.conv.training, student.network.head.training) == (True, False, True)
    assert torch.equal(before, torch.get_rng_state())


class Odd(nn.Module):
    """One layer of every kind that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.idle, self.overwritten, self.nothing = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), Nothing()
        self.head = nn.Linear(3, 4)

    def forward(self, value: Tensor) -> Tensor:
        value = self.overwritten(self.conv(value)).relu_()
        self.nothing(value)
        return self.head(value.mean((2, 3)))


class Nothing(nn.Module):
    def forward(self, value: Tensor) -> str:
        return "nothing"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("network.conb", r"The objective hint reads 'network.conb' of the student, which has no such layer: near it are network.conv\b"),
        ("zzz", r"which has no such layer: near it are network.conv, network.idle, network.overwritten[.]$"),
        (
            "network.idle",
            r"^The layer 'network.idle' of the student cannot be read, because no forward pass visits it by itself: ",
        ),
        ("network.conv..2", r"^The layer 'network.conv..2' of the student cannot be read, because no forward pass visits it"),
        (
            "network.overwritten",
            r"because its output is no tensor, empty, or overwritten in place by the next layer: name",
        ),
        ("network.nothing", r"because its output is no tensor"),
    ],
)
def test_a_layer_that_cannot_be_read_is_named(teacher: Classifier, path: str, sentence: str) -> None:
    student = Classifier(Odd(), SPEC, CLASSES).eval()
    with pytest.raises(ConfigError, match=sentence):
        at_work(teacher, student, {**HINT, "student": path})
    assert taps_left(student) == 0


def test_features_of_inference_mode_serve_a_loss(teacher: Classifier) -> None:
    teacher.network.forward = torch.inference_mode()(teacher.network.forward)
    work = at_work(teacher, plain_student(), HINT)
    work.terms(work.see(images()))["hint"].backward()
    assert work.modules["hint"]["regressor"][0].weight.grad is not None


def test_features_within_a_checkpointed_part_have_the_gradients_of_a_plain_one(teacher: Classifier) -> None:
    class Parts(nn.Module):
        def __init__(self, saves: bool) -> None:
            super().__init__()
            self.saves, self.head = saves, nn.Linear(4, 4)
            self.part = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 1, 1))

        def forward(self, value: Tensor) -> Tensor:
            value = checkpoint(self.part, value, use_reentrant=False) if self.saves else self.part(value)
            return self.head(value.mean((2, 3)))

    gradients = []
    for saves in (False, True):
        with seeded(0, "parts"):
            student = Classifier(Parts(saves), SPEC, CLASSES)
        work = at_work(teacher, student, {"name": "kd"}, {**HINT, "student": "network.part.0"})
        sum(work.terms(work.see(images())).values(), torch.zeros(())).backward()
        gradients.append([parameter.grad for parameter in (*student.parameters(), *work.modules.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0][2].any(), "the first layer learns from both"


def test_networks_that_an_objective_cannot_compare_are_refused(teacher: Classifier) -> None:
    with pytest.raises(ConfigError, match="The teacher has 4 stages and the student 2: give pairs"):
        at_work(teacher, plain_student(), {"name": "matrix"})
    narrow = Classifier(build_network(Architecture(name="wrn_10_1", arguments={"base_width": 12}), SPEC, 4), SPEC, CLASSES)
    with pytest.raises(ConfigError, match="network.stem of the teacher has 8 channels and network.stem of the student 12: take equal"):
        at_work(teacher, narrow, {"name": "matrix"})
    with pytest.raises(ConfigError, match=r"network.blocks.0 of the teacher is \(8, 8\) and network.3 of the student \(4, 4\) in size"):
        at_work(teacher, plain_student(), {**HINT, "teacher": "network.blocks.0"})


def test_a_teacher_of_other_classes_serves_where_only_features_are_compared(student: Classifier) -> None:
    other = build_network(Architecture(name="wrn_10_1", arguments={"base_width": 8}), SPEC, 7)
    teacher = Classifier(other, SPEC, tuple("abcdefg")).freeze()
    work = at_work(teacher, student, {"name": "matrix"})
    seen = work.see(images())
    assert (seen.teacher_logits.shape, seen.student_logits.shape) == ((6, 7), (6, 4))
    assert list(work.terms(seen)) == ["matrix"]


def test_a_tap_is_written_as_it_is_read() -> None:
    assert Tap.parse("network.stem") == Tap("network.stem", "output")
    assert Tap.parse("network.stem..2:input") == Tap("network.stem..2", "input")
    assert [str(Tap.parse(text)) for text in ("network.stem", "network.stem:input")] == ["network.stem", "network.stem:input"]


@pytest.mark.parametrize(
    ("name", "arguments", "sizes"),
    [
        ("resnet14", {"base_width": 8}, [(8, 16), (8, 16), (16, 8), (32, 4)]),
        ("resnet18", {"base_width": 8}, [(8, 16), (8, 16), (16, 8), (32, 4), (64, 2)]),
        ("resnet50", {"base_width": 8}, [(8, 16), (32, 16), (64, 8), (128, 4), (256, 2)]),
        ("wrn_16_1", {"base_width": 8}, [(8, 16), (8, 16), (16, 8), (32, 4)]),
        ("vgg11_bn", {"base_width": 4}, [(4, 8), (8, 4), (16, 2), (32, 1), (32, 1)]),
        ("lenet5", {}, [(6, 14), (16, 5), (120, 1)]),
        ("mobilenet_v2", {"width_multiplier": 0.25}, [(8, 16), (8, 16), (8, 8), (24, 4), (80, 2)]),
    ],
)
def test_our_networks_name_where_their_stages_end(name: str, arguments: dict[str, Any], sizes: list[tuple[int, int]]) -> None:
    spec = SPEC.model_copy(update={"height": 16, "width": 16})
    with torch.device("meta"):
        pair = [Classifier(build_network(Architecture(name=name, arguments=arguments), spec, 4), spec, CLASSES) for _ in range(2)]
    work = StageObjectives(StageConfig(objectives=[{"name": "matrix"}]), pair[0].freeze(), pair[1])
    seen = work.see(torch.empty(2, 1, 16, 16, device="meta"))
    assert [(features.shape[1], features.shape[2]) for features in seen.student.values()] == sizes
    assert all(features.requires_grad for features in seen.student.values())
