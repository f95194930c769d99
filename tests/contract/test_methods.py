"""What every row of the method catalog owes to the engines."""

import copy
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contract.tiny import build, changed, flatten, tiny_settings
from distillery.engine.terms import TurnWatch
from distillery.errors import ConfigError
from distillery.methods.catalog import METHODS, find_method
from distillery.provenance import code_version
from distillery.recipes.loader import load_recipe, recipe_names
from distillery.recipes.schema import DistillationRecipe
from distillery.recipes.sections import GeneratorSection
from distillery.runtime import resolve_runtime
from distillery.synthesis.protocol import SAMPLING, Ingredients
from distillery.types import Classifier
from distillery.workbench.assembly import PlannedMethod
from equivalence.plain import tiny_classifier
from toy_methods import TOYS, registered

STUDENT = {"architecture": {"name": "resnet8"}}
pytestmark = pytest.mark.parametrize("name", [*METHODS, *TOYS])


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture
def student() -> Classifier:
    """A student in the middle of training: mixed modes and flags, gradients in place."""
    student = tiny_classifier(4, seed=2).train()
    student(torch.rand(4, 2, 8, 8)).sum().backward()
    next(student.parameters()).requires_grad_(False)
    list(student.network.children())[1].eval()
    return student


def snapshot(state: Any) -> dict[str, Any]:
    return copy.deepcopy(flatten(state))


def picture(module: nn.Module) -> dict[str, Any]:
    """Everything of a module that somebody else could notice a change in."""
    parts: dict[str, Any] = {f"state/{key}": value for key, value in module.state_dict().items()}
    for key, parameter in module.named_parameters():
        parts[f"flag/{key}"] = parameter.requires_grad
        parts[f"grad/{key}"] = "none" if parameter.grad is None else parameter.grad
    for key, child in module.named_modules():
        parts[f"mode/{key}"] = child.training
        parts[f"hooks/{key}"] = len(child._forward_hooks) + len(child._forward_pre_hooks) + len(child._backward_hooks)
        parts[f"taps/{key}"] = "forward" in child.__dict__
    return copy.deepcopy(parts)


def through_disk(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_the_config_closes_to_unknown_keys(name: str) -> None:
    known = next(iter(find_method(name).load()[1].model_fields))
    with pytest.raises(ConfigError, match=f"did you mean '{known}'"):
        tiny_settings(name, **{f"{known}x": 3})


def test_the_settings_answer_what_others_need_to_know(name: str) -> None:
    row, settings = find_method(name), tiny_settings(name)
    assert settings.images_per_turn or row.target == "generator"
    assert set(row.required(settings)) <= set(row.needs)
    short = settings.cut(4, 1)
    assert short.images_per_turn in (4, 0)
    assert (short.steps_per_turn, short.warmup_turns) == (1, 0)
    assert settings.one_step() == settings.cut(settings.images_per_turn, 1)
    if settings.steps_per_turn > 1:
        assert settings.cut(4, 3).steps_per_turn == 3


def test_advance_leaves_the_student_bit_identical(name: str, student: Classifier) -> None:
    method = build(name)
    before = picture(student)
    for _ in range(3):
        method.advance(student)
    assert changed(before, picture(student)) == set()


def test_synthesize_leaves_the_student_bit_identical(name: str, student: Classifier) -> None:
    method = build(name)
    before = picture(student)
    method.synthesize(5, student=student)
    assert changed(before, picture(student)) == set()


def test_the_student_is_put_back_after_an_error(name: str, student: Classifier) -> None:
    teacher = tiny_classifier(6, seed=1).freeze()
    method = build(name, teacher=teacher)
    before = picture(student)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    teacher.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        method.advance(student)
    assert changed(before, picture(student)) == set()


def test_the_teacher_is_left_alone(name: str, student: Classifier) -> None:
    teacher = tiny_classifier(6, seed=1).freeze()
    before = picture(teacher)  # before its moments are read, which taps it too
    method = build(name, teacher=teacher)
    for _ in range(2):
        method.advance(student)
    method.synthesize(3)
    assert changed(before, picture(teacher)) == set()
    assert not any(module.training for module in teacher.modules())


def test_a_term_that_goes_bad_within_a_round_is_named_with_its_step(name: str, student: Classifier) -> None:
    teacher, tiny = tiny_classifier(6, seed=1).freeze(), tiny_settings(name)
    settings = tiny.cut(tiny.images_per_turn, 4)
    method = build(name, settings=settings, teacher=teacher)
    answers, spoilt = 0, 1_000_000

    def spoil(module: nn.Module, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal answers
        answers += 1
        return logits if answers < spoilt else logits * torch.nan

    teacher.register_forward_hook(spoil)
    method.advance(student)
    each = answers // settings.steps_per_turn
    answers, spoilt = 0, 2 * each + 1 if settings.steps_per_turn > 1 else 1
    watch = TurnWatch(2)
    watch.add(method.advance(student))
    with pytest.raises(ConfigError, match=r"in round 2, step 3 of it: " if settings.steps_per_turn > 1 else "in round 2"):
        watch.read([{}])


@pytest.mark.parametrize("rounds", [0, 3])
def test_synthesize_changes_nothing_but_its_random_stream(name: str, rounds: int, student: Classifier) -> None:
    method = build(name)
    for _ in range(rounds):
        method.advance(student)
    before = snapshot(method.state_dict())
    method.synthesize(11, student=student)
    assert changed(before, snapshot(method.state_dict())) == {f"/{SAMPLING}"}


def test_synthesize_does_not_change_what_is_learned_next(name: str, student: Classifier) -> None:
    left_alone, sampled = build(name), build(name)
    for _ in range(3):
        sampled.synthesize(7, student=student)
        one, other = left_alone.advance(student), sampled.advance(student)
        assert changed(dict(one.terms), dict(other.terms)) == set()


def test_advance_does_not_touch_the_global_random_stream(name: str, student: Classifier) -> None:
    method = build(name)
    before = torch.random.get_rng_state()
    for _ in range(3):
        method.advance(student)
    method.synthesize(3)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_state_round_trips_through_disk(name: str, rounds: int, student: Classifier) -> None:
    method, other = build(name), build(name, seed=7)
    for _ in range(rounds):
        method.advance(student)
    other.load_state_dict(through_disk(method.state_dict()))
    assert changed(snapshot(method.state_dict()), snapshot(other.state_dict())) == set()


def test_a_resumed_method_goes_on_as_one_left_alone(name: str, student: Classifier) -> None:
    left_alone = build(name)
    for _ in range(2):
        left_alone.advance(student)
    resumed = build(name)
    resumed.load_state_dict(through_disk(left_alone.state_dict()))
    for _ in range(3):
        left_alone.advance(student)
        resumed.advance(student)
        left_alone.synthesize(3)
        resumed.synthesize(3)
    assert changed(snapshot(left_alone.state_dict()), snapshot(resumed.state_dict())) == set()


def test_equal_seeds_give_equal_bits_and_others_do_not(name: str, student: Classifier) -> None:
    def images(seed: int) -> torch.Tensor:
        method = build(name, seed)
        method.advance(student)
        return method.synthesize(5).images

    assert torch.equal(images(0), images(0))
    assert not torch.equal(images(0), images(1))


@pytest.mark.parametrize("n", [0, 1, 8, 19])
def test_synthesize_gives_exactly_n_images_in_range(name: str, n: int) -> None:
    made = build(name).synthesize(n)
    assert made.images.shape == (n, 2, 8, 8)
    assert made.images.dtype == torch.float32
    assert not made.images.requires_grad
    assert made.images.numel() == 0 or (0 <= made.images.min() and made.images.max() <= 1)


def test_asked_labels_come_back_in_their_order(name: str) -> None:
    labels = torch.tensor([2, 0, 1, 1, 1, 0, 2, 2, 2, 2, 0])
    if not find_method(name).classes:
        with pytest.raises(
            ConfigError, match=f"^{name} makes images of no class that is asked for, and got 11 labels: leave the labels out"
        ):
            build(name).synthesize(11, labels)
        assert build(name).synthesize(11).labels is None
        return
    made = build(name).synthesize(11, labels)
    assert made.labels is not None
    assert torch.equal(made.labels, labels)


@pytest.mark.parametrize("labels", [torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([0])])
def test_impossible_labels_are_refused(name: str, labels: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="labels"):
        build(name).synthesize(2, labels)


def test_terms_stay_on_the_device_without_a_graph(name: str, student: Classifier) -> None:
    made = build(name).advance(student)
    for term in made.terms.values():
        assert term.shape == ()
        assert not term.requires_grad
    assert made.batch is None or not made.batch.images.requires_grad


def test_the_first_rounds_tell_the_gradient_norm_of_each_term(name: str, student: Classifier) -> None:
    method = build(name)
    first = method.advance(student)
    assert set(first.gradient_norms) == set(first.terms)
    assert all(torch.isfinite(norm) for norm in first.gradient_norms.values())
    assert max(first.gradient_norms.values()) > 0
    later = [method.advance(student) for _ in range(4)]
    assert not later[-1].gradient_norms


def test_measuring_gradient_norms_changes_no_bit(name: str, student: Classifier) -> None:
    measured, unmeasured = build(name), build(name, diagnose=False)
    assert measured.advance(student).gradient_norms
    assert not unmeasured.advance(student).gradient_norms
    assert changed(snapshot(measured.state_dict()), snapshot(unmeasured.state_dict())) == set()


def test_what_is_needed_and_not_given_is_refused_by_name(name: str) -> None:
    row, settings = find_method(name), tiny_settings(name)
    bare = Ingredients(tiny_classifier(4, 1).freeze(), resolve_runtime("cpu"), 0)
    if not row.required(settings):
        assert row.load()[0](settings, bare)
        return
    with pytest.raises(ConfigError, match=f"^{name} needs (the teacher's moments|images of another domain) and got none: "):
        row.load()[0](settings, bare)


def test_a_need_is_lifted_by_a_weight_of_zero(name: str, student: Classifier) -> None:
    row = find_method(name)
    assert set(row.required(tiny_settings(name))) == set(row.needs)
    lifted = tiny_settings(name, **{weight: 0 for weight in row.needs.values() if weight})
    assert set(row.required(lifted)) == {need for need, weight in row.needs.items() if not weight}
    method = build(name, settings=lifted)
    assert method.advance(student).terms
    method.load_state_dict(through_disk(method.state_dict()))
    assert len(method.synthesize(3)) == 3


def test_settings_that_leave_nothing_to_minimise_are_refused_at_every_door(name: str) -> None:
    off: dict[str, Any] = dict.fromkeys(tiny_settings(name).weights, 0)
    said = r"config is not allowed: .*_weight (are all|is) 0, so nothing is left to minimise: give one of them a weight above 0\.$"
    section = {"seed": 0, "code_version": code_version(), "teacher_sha256": "t", "method": name, "rounds": 1}
    own = {"method": name, "config": off, **({} if find_method(name).inverts else {"rounds": 1})}
    doors: dict[str, Callable[[], object]] = {
        "a recipe of one's own": lambda: DistillationRecipe.resolve({"synthesis": own, "student": STUDENT}),
        "a section": lambda: GeneratorSection.parse({**section, "method_config": off}),
        "a synthesizer's bundle": lambda: PlannedMethod.parse(name, off, Path()),
    }
    if (digits := f"{name}/digits") in recipe_names():
        doors["--set"] = lambda: load_recipe(digits, {f"synthesis.config.{key}": 0 for key in off})
    assert off
    for door in doors.values():
        with pytest.raises(ConfigError, match=said):
            door()


def test_any_one_weight_is_enough(name: str, student: Classifier) -> None:
    weights = tiny_settings(name).weights
    for kept in weights:
        settings = tiny_settings(name, **{weight: float(weight == kept) for weight in weights})
        method = build(name, settings=settings)
        assert [f"{term}_weight" for term in method.advance(student).terms] == [kept]
        assert len(method.synthesize(3, student=student)) == 3


def test_a_student_is_not_needed_or_missed_in_a_sentence(name: str) -> None:
    refused = ""
    try:
        assert build(name).advance(None).terms
    except ConfigError as error:
        refused = str(error)
    assert not refused or (find_method(name).coupling == "online" and "a student" in refused), "an offline method never sees one"


def test_images_as_the_target_are_made_of_the_classes_that_are_asked_for(name: str, student: Classifier) -> None:
    made = build(name).advance(student, labels := torch.tensor([2, 0, 1, 1, 2])).batch
    if find_method(name).target == "images":
        assert made is not None
        assert made.images.shape == (5, 2, 8, 8)
        assert torch.equal(made.labels, labels)  # type: ignore[arg-type]
    elif made is not None:
        assert made.labels is None or len(made.labels) == len(made)
