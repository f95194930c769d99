"""Every recipe that ships: true to the table it names, and run for one round at full size."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery.api.running import run_step
from distillery.data.pool import ImagePool
from distillery.engine.feeds import PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.methods.catalog import METHODS
from distillery.models.bundle import count_parameters, load_classifier, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance
from distillery.recipes.class_statistics import StatisticsRecipe
from distillery.recipes.loader import PRESETS, list_recipes, load_recipe, recipe_names
from distillery.recipes.schema import Recipe, StudentRecipe
from distillery.recipes.sections import DistillSection, GeneratorSection, MaterializeSection, MethodSection, StudentSection
from distillery.recipes.workload import workload_of
from distillery.runtime import resolve_runtime
from distillery.statistics.counts import STABLE_IMAGES
from distillery.step_table import STEPS
from distillery.steps.plan import run as plan
from distillery.synthesis.protocol import Ingredients, Synthesizer
from distillery.synthesis.share import ALONE
from distillery.types import Classifier, ImageSpec
from methods import shortened
from needed import form_needed, moments_needed, others_needed

TEACHERS = {
    "ResNet-26": "resnet26",
    "ResNet-34": "resnet34",
    "ResNet-50": "torchvision:resnet50",
    "VGG-11-BN": "vgg11_bn",
    "WRN-40-2": "wrn_40_2",
    "WRN-16-2": "wrn_16_2",
    "WRN-10-2": "wrn_10_2",
}
BATCH = 8

# Typed from the published tables, not from the recipes: teacher, then student at k = 2, 5, 10
PUBLISHED = {
    "cifar10-resnet34-resnet18": (95.70, 92.62, 93.63, 94.05),
    "cifar10-vgg11-resnet18": (92.25, 84.67, 89.94, 90.53),
    "cifar10-wrn40_2-wrn16_1": (94.87, 88.36, 88.90, 89.29),
    "cifar10-wrn40_2-wrn40_1": (94.87, 89.56, 92.04, 92.51),
    "cifar10-wrn40_2-wrn16_2": (94.87, 89.68, 91.96, 92.45),
    "cifar100-resnet34-resnet18": (78.05, 69.76, 72.82, 74.34),
    "cifar100-vgg11-resnet18": (71.32, 62.83, 65.28, 67.44),
    "cifar100-wrn40_2-wrn16_1": (75.83, 41.77, 52.90, 54.02),
    "cifar100-wrn40_2-wrn40_1": (75.83, 53.15, 61.80, 63.91),
    "cifar100-wrn40_2-wrn16_2": (75.83, 57.08, 63.83, 65.12),
}
WEIGHTS = {"resnet34": (1.33, 0.5), "vgg11": (1.0, 0.5), "wrn40_2": (1.1, 0.4)}  # adversarial, label
RATES = {2: (0.015, 5e-3), 5: (0.01, 3e-3), 10: (0.01, 2e-3)}  # latent, generator
STUDENTS = {"resnet18": "resnet18", "wrn16_1": "wrn_16_1", "wrn40_1": "wrn_40_1", "wrn16_2": "wrn_16_2"}
FAST = [(pair, k, number) for pair, (_, *numbers) in PUBLISHED.items() for k, number in zip(RATES, numbers, strict=True)]
LS_GDFD = {
    "cifar10-resnet34-resnet18": (95.05, 95.02),
    "cifar10-resnet34-resnet18-inceptionism": (95.05, 77.31),
    "cifar10-resnet34-resnet18-moments": (95.05, 94.61),
    "cifar100-resnet34-resnet18": (77.26, 76.42),
    "cifar100-resnet34-resnet18-ensemble-meta_data": (77.26, 77.16),
    "cifar100-resnet34-resnet18-ensemble-data_free": (77.26, 77.02),
}
OUR_OWN = {"cifar100-resnet34-resnet18-class_moments"}
RECIPES = recipe_names()


@cache
def recipe_of(name: str) -> Recipe:
    return load_recipe(name)


@pytest.mark.parametrize(("pair", "k", "number"), FAST)
def test_fast_dfkd_is_the_published_row(pair: str, k: int, number: float) -> None:
    recipe = recipe_of(f"fast_dfkd/{pair}-k{k}")
    data, teacher, student = pair.split("-")
    config, stage = recipe.synthesis.config, recipe.student.stages[0]
    assert recipe.about.published.startswith(f"{number:.2f} %")
    assert f"({PUBLISHED[pair][0]:.2f} %)" in recipe.about.teacher
    assert recipe.about.table.startswith(f"table 1, row Fast-{k}, ")
    assert recipe.about.weights == "published"
    assert (config["adversarial_weight"], config["label_weight"]) == WEIGHTS[teacher]
    assert (config["latent_rate"], config["generator_rate"]) == RATES[k]
    assert (config["steps"], config["batch"], config["warmup"], config["moments_weight"], config["moments_momentum"]) == (
        k,
        256,
        20,
        10,
        0.9,
    )
    assert (config["reuse"], config["reset"], config["reset_after"], config["meta_rate"]) == ("fomaml_sum", "first_layer_and_norm", 120, 0)
    assert config["augment"] == {"crop_padding": 4, "flip": True} == stage.augment.to_json()
    assert (config["generator"]["name"], config["generator"]["latent"], config["generator"]["width"]) == ("generator", 256, 64)
    assert (recipe.synthesis.rounds, recipe.synthesis.student_steps_per_turn, recipe.synthesis.feed) == (220, 400, "pool")
    assert recipe.set.holdout == 0
    assert recipe.student.architecture == Architecture(name=STUDENTS[student])
    assert (len(recipe.student.stages), stage.batch, stage.objectives[0]["temperature"]) == (1, 256, 20)
    assert (stage.objectives[0]["soft"], stage.objectives[0]["hard"]) == (1, 0)
    assert (stage.optimizer.name, stage.optimizer.rate, stage.optimizer.momentum, stage.optimizer.weight_decay) == ("sgd", 0.2, 0.9, 1e-4)
    assert not stage.optimizer.nesterov
    assert (stage.schedule.name, stage.schedule.length, stage.schedule.minimum) == ("cosine", 200, 2e-4)
    assert recipe.expects.to_json() == {"channels": 3, "height": 32, "width": 32, "classes": int(data.removeprefix("cifar"))}
    assert workload_of(recipe).images == 56_320
    assert workload_of(recipe).student_steps == 80_000


def test_every_published_pair_is_there() -> None:
    named = {name for name in RECIPES if name.startswith("fast_dfkd/cifar") and "laptop" not in name}
    assert named == {f"fast_dfkd/{pair}-k{k}" for pair, k, _ in FAST}
    assert len(named) == 30
    assert {name for name in RECIPES if name.startswith("ls_gdfd/cifar") and "laptop" not in name} == {
        f"ls_gdfd/{name}" for name in {*LS_GDFD, *OUR_OWN}
    }


@pytest.mark.parametrize("name", LS_GDFD)
def test_ls_gdfd_carries_the_published_number_and_says_whose_weights_it_has(name: str) -> None:
    recipe = recipe_of(f"ls_gdfd/{name}")
    teacher, number = LS_GDFD[name]
    assert recipe.about.published == f"{number:.2f} %"
    assert f"({teacher:.2f} %)" in recipe.about.teacher
    assert "third-party" in recipe.about.weights
    assert "none were published" in recipe.about.weights
    assert recipe.set.holdout == 0
    assert (recipe.synthesis.config["generator"]["latent"], recipe.synthesis.config["generator"]["condition"]) == (1024, "one_hot")


@pytest.mark.parametrize("base", ["ls_gdfd/cifar10-resnet34-resnet18", "ls_gdfd/digits"])
def test_the_ablations_differ_in_their_weights_alone(base: str) -> None:
    both = recipe_of(base).synthesis.config
    priors = {"label_weight": 0.0, "total_variation_weight": 0.0, "l2_weight": 0.0}
    assert min(both[name] for name in (*priors, "moments_weight")) > 0
    assert recipe_of(f"{base}-inceptionism").synthesis.config == {**both, "moments_weight": 0.0}
    assert recipe_of(f"{base}-moments").synthesis.config == {**both, **priors}


@pytest.mark.parametrize(
    "name", [name for name in RECIPES if name.startswith("ls_gdfd/") and name.endswith(("_moments", "_data", "_free"))]
)
def test_statistics_of_classes_are_matched_where_a_name_says_so(name: str) -> None:
    recipe = recipe_of(name)
    assert "class_moments" in recipe.method.required(recipe.settings)
    if "ensemble" in name:
        assert recipe.synthesis.generators == "classes"
        assert recipe.settings.images_per_turn * recipe.generators(recipe.expects.classes) >= 128, "no less a step than one generator makes"


def test_both_published_ensembles_differ_in_their_statistics_alone() -> None:
    one, other = (recipe_of(f"ls_gdfd/cifar100-resnet34-resnet18-ensemble-{name}").to_json() for name in ("meta_data", "data_free"))
    assert {key for key in one if one[key] != other[key]} == {"about"}


def test_the_reuse_ablations_differ_in_reuse_alone() -> None:
    base = recipe_of("fast_dfkd/digits").synthesis.config
    found = {name: recipe_of(name).synthesis.config for name in RECIPES if name.startswith("fast_dfkd/digits-")}
    assert {config["reuse"] for config in found.values()} == {"fomaml_last", "reptile", "sequential", "none"}
    for name, config in found.items():
        assert config == {**base, "reuse": name.removeprefix("fast_dfkd/digits-").replace("-", "_")}


def test_names_are_unique_and_stand_under_their_method() -> None:
    assert len({name.lower() for name in RECIPES}) == len(RECIPES) >= 45
    titles = [row.about["title"] for row in list_recipes()]
    assert len(set(titles)) == len(titles)
    for row in list_recipes():
        if row.kind == "student":
            assert (row.name.split("/")[0], row.method) == ("students", "")
            continue
        if row.kind == "statistics":
            assert row.name.split("/")[0] == "statistics"
            assert row.method in ("", "deep_inversion")
            continue
        assert row.method == row.name.split("/")[0]
        assert row.method in METHODS


def test_every_base_is_used() -> None:
    text = "".join(path.read_text() for path in PRESETS.rglob("*.yaml"))
    for path in (PRESETS / "_base").glob("*.yaml"):
        assert f"extends: _base/{path.stem}\n" in text


@pytest.mark.parametrize("name", RECIPES)
def test_about_is_complete_and_true(name: str) -> None:
    recipe = recipe_of(name)
    about, cost = recipe.about, workload_of(recipe)
    assert (about.images, about.student_steps) == (cost.images, cost.student_steps)
    for field in ("title", "paper", "table", "dataset", "teacher", "weights"):
        assert getattr(about, field), field
    assert bool(about.student) != isinstance(recipe, StatisticsRecipe)
    expected = [number for name, number in recipe.expects.to_json().items() if name != "student_start"]
    assert min(expected) > 0 or name == "statistics/images", "which takes any teacher"
    if isinstance(recipe, StudentRecipe) or not recipe.synthesis.method:
        return
    assert about.paper.split()[0] in METHODS[recipe.synthesis.method].paper
    if recipe.method.coupling == "online" and not isinstance(recipe, StatisticsRecipe):
        assert sum(stage.epochs * stage.steps_per_epoch for stage in recipe.student.stages) == about.student_steps


@pytest.mark.parametrize("name", [name for name in RECIPES if "/digits" in name and not name.startswith("statistics/")])
def test_a_digits_student_is_at_most_an_eighth_of_its_teacher(name: str) -> None:
    recipe = recipe_of(name)
    teacher = build(Architecture(name="wrn_16_2"), recipe)
    assert count_parameters(build(recipe.student.architecture, recipe)) * 8 <= count_parameters(teacher)


class Teachers:
    """Full-size teachers with fresh weights, each built and saved once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[Path, Classifier, str]] = {}

    def get(self, recipe: Recipe) -> tuple[Path, Classifier, str]:
        """Bundle, teacher, and the bundle's sha256."""
        architecture = Architecture(name=TEACHERS[recipe.about.teacher.split(" (")[0]])
        key = "-".join([architecture.name, *(str(value) for value in recipe.expects.to_json().values())])
        if key not in self._known:
            classifier = build(architecture, recipe)
            sha256 = save_classifier(self._folder / key, classifier, architecture, Provenance(code_version="test"))
            self._known[key] = (self._folder / key, classifier.freeze(), sha256)
        return self._known[key]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    return Teachers(tmp_path_factory.mktemp("teachers"))


@cache
def shared_student(architecture: str, num_classes: int, shape: tuple[int, int, int]) -> Classifier:
    spec = ImageSpec(channels=shape[0], height=shape[1], width=shape[2], mean=(0.5,) * shape[0], std=(0.25,) * shape[0])
    network = build_network(Architecture.model_validate_json(architecture), spec, num_classes)
    return Classifier(network, spec, tuple(str(number) for number in range(num_classes)))


def build(architecture: Architecture, recipe: Recipe) -> Classifier:
    channels, size, classes = recipe.expects.channels, (recipe.expects.height, recipe.expects.width), recipe.expects.classes
    spec = ImageSpec(channels=channels, height=size[0], width=size[1], mean=(0.5,) * channels, std=(0.25,) * channels)
    return Classifier(build_network(architecture, spec, classes), spec, tuple(str(number) for number in range(classes)))


def one_round(recipe: Recipe) -> dict[str, Any]:
    """Overrides to one round at batch 8; networks, losses and weights stay the recipe's."""
    changes: dict[str, Any] = {} if recipe.method.inverts else {"synthesis.rounds": 1, "synthesis.turns_per_round": 1}
    changes |= {"student.stages.0.batch": BATCH, "student.stages.0.epochs": 1, "student.stages.0.steps_per_epoch": 1}
    changes |= {f"synthesis.config.{name}": value for name, value in shortened(recipe.settings, BATCH, 2).items()}
    if recipe.method.coupling == "online":
        return {**changes, "synthesis.student_steps_per_turn": 1}
    return {**changes, "set.size": BATCH} if recipe.method.inverts else {**changes, "set.size": BATCH, "set.batch": BATCH}


def synthesizer_of(section: MethodSection, teacher: Classifier) -> Synthesizer:
    cls, config = METHODS[section.method].load()
    settings = config.parse(section.method_config)
    needs = METHODS[section.method].required(settings)
    moments, ood = moments_needed(needs, teacher, section.teacher_sha256), others_needed(needs, teacher.spec)
    share = section.share if isinstance(section, GeneratorSection) else ALONE
    built: Synthesizer = cls(settings, Ingredients(teacher, resolve_runtime("cpu", "float32"), section.seed, moments, ood=ood, share=share))
    return built


def first_of_their_networks() -> set[str]:
    """A recipe for each method, teacher and student, and all of the digits': the others differ from it in numbers alone."""
    first: dict[tuple[str, ...], str] = {}
    for row in list_recipes():
        if row.kind == "statistics":
            continue
        teacher = row.about["teacher"].partition(" (")[0]
        first.setdefault((row.method, teacher, row.about["student"], row.name if "/digits" in row.name else ""), row.name)
    return set(first.values())


RUN = first_of_their_networks()
SYNTHESIZING = [row.name for row in list_recipes() if row.kind == "distillation"]
INVERTING = [row.name for row in list_recipes() if row.kind == "statistics" and row.method]


@pytest.mark.parametrize("name", [row.name for row in list_recipes() if row.kind == "student"])
def test_a_student_s_recipe_is_planned_on_real_images_and_trained_for_a_step_of_every_stage(
    name: str, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path))
    recipe = recipe_of(name)
    uri, teacher, _ = teachers.get(recipe)
    classes = len(recipe.student.class_names(teacher.class_names))
    images = np.random.default_rng(0).integers(0, 256, (2 * classes, *teacher.spec.shape), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", images=images, labels=np.arange(2 * classes) % classes)
    changes = {
        f"student.stages.{number}.{key}": value
        for number, _ in enumerate(recipe.student.stages)
        for key, value in {"batch": BATCH, "epochs": 1, "steps_per_epoch": 1}.items()
    }
    form = {"run_recipe": name, "teacher_uri": str(uri), "images_uri": str(tmp_path / "real.npz"), "run_overrides": changes}
    if isinstance(recipe, StudentRecipe) and recipe.expects.student_start:
        form["student_start_uri"] = str(uri)  # of the student's own architecture, as the recipe says it
    if recipe.student.classes:  # only labels tell what it is worth
        form["eval_data_uri"] = str(tmp_path / "real.npz")
    sections = plan("student_distillation", form)
    run_step("open_set", sections["source"], {"set": tmp_path / "set"}, form)
    places = {"set": tmp_path / "set", "student": tmp_path / "student"}
    numbers = run_step("train_student", sections["student"], places, form)
    assert numbers["epochs"] == len(recipe.student.stages)
    assert load_classifier(tmp_path / "student").num_classes == classes


@pytest.mark.parametrize("name", INVERTING)
def test_statistics_are_planned_at_full_size_on_as_many_images_of_each_class_as_are_stable(
    name: str, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path))
    recipe = recipe_of(name)
    uri, teacher, _ = teachers.get(recipe)
    sections = plan(recipe.pipeline, {"run_recipe": name, "teacher_uri": str(uri)})
    assert set(sections) == {"statistics", "materialize", "class_statistics"}
    drawn = MaterializeSection.parse(sections["materialize"])
    assert (drawn.set.size, drawn.set.holdout) == (STABLE_IMAGES * teacher.num_classes, 0.0)
    assert recipe.about.images == drawn.set.size


@pytest.mark.parametrize("name", SYNTHESIZING)
def test_planned_and_built_at_full_size_and_the_first_of_its_networks_run_for_one_round(
    name: str, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path))
    recipe = recipe_of(name)
    uri, teacher, sha256 = teachers.get(recipe)
    needed = form_needed(recipe.method.required(recipe.settings), teacher, sha256, tmp_path)
    sections = plan(recipe.pipeline, {"run_recipe": name, "teacher_uri": str(uri), "run_overrides": one_round(recipe), **needed})

    online = recipe.method.coupling == "online"
    makers: dict[str, type[MethodSection]] = {"distill_online": DistillSection, "train_generator": GeneratorSection}
    makers["materialize"] = MaterializeSection
    planned = next(section.parse(STEPS[step].planned(sections)[0]) for step, section in makers.items() if STEPS[step].planned(sections))
    config = (planned if isinstance(planned, DistillSection) else StudentSection.parse(sections["student"])).student
    student = shared_student(config.architecture.model_dump_json(), teacher.num_classes, teacher.spec.shape)
    synthesizer = synthesizer_of(planned, teacher)
    if name not in RUN:
        return
    learned = synthesizer.advance(student if online else None)
    assert learned.ready
    assert learned.terms
    assert all(torch.isfinite(term) for term in learned.terms.values())

    batch = learned.batch if online or recipe.method.inverts else synthesizer.synthesize(BATCH)
    assert batch is not None
    assert batch.images.shape == (BATCH, *teacher.spec.shape)
    assert 0 <= float(batch.images.min()) < float(batch.images.max()) <= 1
    pool = ImagePool(teacher.spec)
    pool.append(batch.images)
    student = deepcopy(student)  # the shared one stays as it was: steps of many recipes, one after another, would let it diverge
    before = [parameter.detach().clone() for parameter in student.parameters()]
    trainer = StudentTrainer(config.stages, teacher, student, resolve_runtime("cpu", "float32"), planned.seed)
    assert trainer.train(1, PoolFeed(pool))["kd"] > 0
    assert any(not torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True))
