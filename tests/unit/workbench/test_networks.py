"""Foreign networks in a run: what cannot work is found in the plan, and what takes contiguous images alone works in every step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.data.pool import ImagePool
from distillery.documents import seal
from distillery.engine.feeds import PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.engine.labelling import teacher_logits
from distillery.errors import ConfigError
from distillery.estimate.estimate import estimate
from distillery.evaluation.cost import Cost, LatencyConfig
from distillery.evaluation.features import penultimate
from distillery.evaluation.predict import predict
from distillery.methods.fast_dfkd import FastDFKD, FastDFKDConfig
from distillery.models.bundle import VerifiedBundle, load_classifier, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.models.export import export_student
from distillery.provenance import Provenance
from distillery.recipes.loader import load_recipe
from distillery.runtime import Runtime
from distillery.statistics.extract import class_moments, global_moments
from distillery.statistics.layers import find_layers
from distillery.steps.plan import run
from distillery.students.plan import StageConfig
from distillery.synthesis.protocol import Ingredients
from distillery.types import Classifier, ImageSpec, MemoryFormat
from distillery.workbench.assembly import build_student
from distillery.workbench.networks import check_networks
from fakes import CPU
from short_recipes import SHORT
from toy_objectives import register

SPEC = ImageSpec(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.25,) * 3)
OVERRIDES = {
    "expects": {"channels": 3, "height": 8, "width": 8, "classes": 3},
    "synthesis.config": {"batch": 4, "steps": 1, "generator": {"latent": 4, "width": 4}},
    "precision": "float32",
}


def save(folder: Path, name: str, order: MemoryFormat = "channels_last") -> str:
    architecture = Architecture(name=f"toy_networks:{name}")
    classifier = Classifier(build_network(architecture, SPEC, 3), SPEC, ("a", "b", "c"), order)
    save_classifier(folder, classifier, architecture, Provenance(code_version="test"))
    return str(folder)


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))


def parameters(teacher: str, student: str = "Pooled") -> dict[str, Any]:
    return {"teacher_uri": teacher, "student_architecture": f"toy_networks:{student}", "run_overrides": OVERRIDES}


STUDENTS = {
    "TooDeep": r"toy_networks:TooDeep fails on images of 3x8x8 \(RuntimeError: Calculated padded input size per channel: \(4 x 4\)",
    "Auxiliary": "toy_networks:Auxiliary gives Outputs for 2 images of 3x8x8 in train mode",
    "TrainsWrong": "toy_networks:TrainsWrong fails on images of 3x8x8 in train mode",
    "RaisesWhenBuilt": r"toy_networks:RaisesWhenBuilt cannot be built with arguments \{\} \(Unprintable\)",
}


@pytest.mark.parametrize("student", sorted(STUDENTS))
def test_a_student_that_fails_is_found_in_the_plan_and_the_dry_run_says_the_same(tmp_path: Path, student: str) -> None:
    teacher = save(tmp_path / "teacher", "Pooled")
    said = []
    for check in (run, estimate):
        with pytest.raises(ConfigError, match=STUDENTS[student]) as caught:
            check("online_distillation", parameters(teacher, student))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    assert not (tmp_path / "store").exists()


def test_sound_networks_pass(tmp_path: Path) -> None:
    assert run("online_distillation", parameters(save(tmp_path / "teacher", "Viewed", "contiguous"), "Viewed"))


TEACHERS = {
    "Blocked": r"FastDFKD makes images by the teacher's gradients, but toy_networks:Blocked lets none through to them \(it cuts",
    "Rounded": "lets none through to them",
    "Softmaxed": "gives probabilities, not logits",
}


@pytest.mark.parametrize("teacher", sorted(TEACHERS))
def test_a_teacher_that_cannot_serve_is_found_in_the_plan(tmp_path: Path, teacher: str) -> None:
    with pytest.raises(ConfigError, match=TEACHERS[teacher]) as caught:
        run("online_distillation", parameters(save(tmp_path / "teacher", teacher)))
    assert "\n" not in str(caught.value)


def test_a_teacher_without_gradients_still_teaches_on_a_set_that_exists(tmp_path: Path) -> None:
    folder = Path(save(tmp_path / "teacher", "Blocked"))
    recipe = load_recipe("fast_dfkd/digits", {**OVERRIDES, "student.architecture": {"name": "toy_networks:Pooled"}})
    check_networks(recipe, VerifiedBundle(folder), CPU, makes_images=False)
    with pytest.raises(ConfigError, match="makes images"):
        check_networks(recipe, VerifiedBundle(folder), CPU)


@pytest.mark.parametrize(("teacher", "student"), [("toy_networks:Pooled", "toy_networks:Viewed"), ("resnet8", "resnet8")])
def test_a_plan_that_names_layers_is_tried_on_networks_of_ours_and_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str, student: str
) -> None:
    register(monkeypatch)
    foreign = ":" in teacher
    architecture = Architecture(name=teacher, arguments={} if foreign else {"base_width": 8})
    classifier = Classifier(build_network(architecture, SPEC, 3), SPEC, ("a", "b", "c"))
    save_classifier(tmp_path / "teacher", classifier, architecture, Provenance(code_version="t"))
    layer = "network.conv" if foreign else "network.blocks.1"

    def check(path: str) -> None:
        stages = [{"objectives": [{"name": "kd"}, {"name": "hint", "teacher": layer, "student": path}]}]
        settings = {**OVERRIDES, "student": {"architecture": {"name": student}, "stages": stages}}
        recipe = load_recipe("fast_dfkd/digits", settings)
        check_networks(recipe, VerifiedBundle(tmp_path / "teacher"), CPU, makes_images=False)

    check(layer)
    with pytest.raises(ConfigError, match=rf"^student.stages.0 cannot be trained: The objective hint reads '{layer}x' of the student"):
        check(f"{layer}x")


@pytest.mark.parametrize(
    ("method", "teacher", "student", "whose"),
    [
        ("deep_inversion", "toy_networks:Pooled", "resnet8", "teacher"),
        ("adaptive_deep_inversion", "toy_networks:Pooled", "resnet8", "teacher"),
        ("adaptive_deep_inversion", "resnet8", "toy_networks:Pooled", "student"),
    ],
)
def test_images_of_half_the_size_are_tried_before_anything_is_trained(
    tmp_path: Path, method: str, teacher: str, student: str, whose: str
) -> None:
    architecture = Architecture(name=teacher)
    classifier = Classifier(build_network(architecture, SPEC, 3), SPEC, ("a", "b", "c"))
    save_classifier(tmp_path / "teacher", classifier, architecture, Provenance(code_version="t"))

    def check(coarse_steps: int, makes_images: bool = True, **settings: float) -> None:
        changes = {**SHORT[f"{method}/digits"], "expects": OVERRIDES["expects"], "student.architecture": {"name": student, "arguments": {}}}
        changes["synthesis.config"] = {**changes["synthesis.config"], "coarse_steps": coarse_steps, **settings}
        recipe = load_recipe(f"{method}/digits", changes)
        check_networks(recipe, VerifiedBundle(tmp_path / "teacher"), CPU, makes_images)

    check(0)
    check(1, makes_images=False)
    with pytest.raises(ConfigError, match=f"^coarse_steps shows the {whose} images of 4x4, and it takes 8x8 alone: set"):
        check(1)
    if whose == "student":
        check(1, competition_weight=0.0)


@pytest.mark.parametrize(("teacher", "student"), [("Float32Only", "Pooled"), ("Pooled", "Float32Only")])
def test_what_fails_under_autocast_asks_for_float32(tmp_path: Path, teacher: str, student: str) -> None:
    folder = Path(save(tmp_path / "teacher", teacher))
    recipe = load_recipe("fast_dfkd/digits", {**OVERRIDES, "student.architecture": {"name": f"toy_networks:{student}"}})
    check_networks(recipe, VerifiedBundle(folder), CPU)
    with pytest.raises(ConfigError, match=r"Under autocast to bfloat16 toy_networks:Float32Only .*set precision: float32"):
        check_networks(recipe, VerifiedBundle(folder), Runtime(torch.device("cpu"), "bfloat16", 1))


def test_a_student_is_what_its_seed_says_though_it_was_tried(tmp_path: Path) -> None:
    teacher = load_classifier(Path(save(tmp_path / "teacher", "Pooled"))).freeze()
    student = build_student(Architecture(name="toy_networks:Counting"), teacher, CPU, seed=3)
    again = build_student(Architecture(name="toy_networks:Counting"), teacher, CPU, seed=3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    assert float(student.network.passes) == 0  # type: ignore[arg-type]
    assert build_student(Architecture(name="toy_networks:Viewed"), teacher, CPU, 0).memory_format == "contiguous"


@pytest.mark.parametrize("network", ["Viewed", "ViewedBefore", "ByMemory"])
def test_contiguous_networks_work_wherever_networks_are_run(tmp_path: Path, network: str) -> None:
    """Images come as they lie: channels-last from a generator or the pool, contiguous from a file."""
    teacher = CPU.place(load_classifier(Path(save(tmp_path / "teacher", network, "contiguous"))).freeze())
    student = build_student(Architecture(name=f"toy_networks:{network}"), teacher, CPU, seed=0)
    assert student.memory_format == "contiguous"
    images = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    expected = teacher(images.contiguous().float() / 255)
    for found in (predict(teacher, images, batch=2), teacher_logits(teacher, images), teacher(images.float() / 255)):
        torch.testing.assert_close(found, expected)
    assert Cost.measure(teacher, 1, LatencyConfig(batches=(1, 2), repeats=3, warmup=1)).flops > 0
    assert len(penultimate(teacher, images, batch=4).values) == 9
    batchnorm = bool(find_layers(teacher).visits)
    moments = None
    if batchnorm:
        class_moments(teacher, images, torch.arange(9) % 3, "sha")
        moments = global_moments(teacher, "sha")
    config = {
        "batch": 4,
        "steps": 2,
        "generator": {"name": "generator", "latent": 4, "width": 4},
        "moments_weight": float(batchnorm),
        "warmup": 0,
    }
    synthesizer = FastDFKD(FastDFKDConfig.parse(config), Ingredients(teacher, CPU, 0, moments))
    made = synthesizer.advance(student)
    assert all(term.isfinite() and made.gradient_norms[name] > 0 for name, term in made.terms.items())
    pool = ImagePool(SPEC)
    pool.append(images)
    trainer = StudentTrainer((StageConfig(batch=4, epochs=2, steps_per_epoch=2),), teacher, student, CPU, 0)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    trainer.train(3, PoolFeed(pool))
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_an_export_of_a_contiguous_student_gives_its_logits(tmp_path: Path) -> None:
    written = export_student(Path(save(tmp_path / "student", "Viewed", "contiguous")), tmp_path / "out", ("pt2", "onnx"), ("float32",))
    assert all(file.difference is None or file.difference < 1e-4 for file in written.values())
    module = torch.export.load(tmp_path / "out" / "student.pt2").module()
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(
        module(images.contiguous(memory_format=torch.channels_last)), load_classifier(tmp_path / "student").eval()(images)
    )


def test_an_older_bundle_is_taken_for_channels_last(tmp_path: Path) -> None:
    folder = Path(save(tmp_path / "teacher", "Viewed", "contiguous"))
    document = json.loads((folder / "bundle.json").read_bytes())
    del document["memory_format"]
    (folder / "bundle.json").write_bytes(seal({**document, "version": 2}))
    with pytest.raises(ConfigError, match="takes contiguous images only, which its bundle does not say: import the teacher again"):
        run("online_distillation", parameters(str(folder)))
