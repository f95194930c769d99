"""A student is trained on what is there, a set of an earlier run or real images, without synthesizing; its origin is told and audited."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from chains import Chain, away, changed, make_teacher
from distillery.data.given import read_facts
from distillery.data.reference import open_reference, read_reference
from distillery.engine.fit import StudentTrainer
from distillery.errors import CheckpointMismatchError, ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.estimate.estimate import estimate
from distillery.evaluation.report import load_report
from distillery.ledger.audit import audit
from distillery.ledger.compare import differences
from distillery.ledger.prune import Inventory
from distillery.ledger.runs import list_runs, set_place
from distillery.models.bundle import read_bundle, read_origin
from distillery.provenance import sha256_file
from distillery.reporting.card import model_card, open_sources
from distillery.steps import plan
from distillery.storage import open_store
from distillery_kfp.pipelines.compile import compile_text

KD, FSP = "students/digits-kd", "students/digits-fsp"
WIRED = {
    "plan": set(),
    "open-set": {"plan"},
    "train-student": {"plan", "open-set"},
    "evaluate": {"plan", "train-student", "open-set"},
    "register": {"plan", "train-student", "evaluate"},
}
HINTED = {
    "student.stages": [
        {"objectives": [{"name": "fitnets"}], "epochs": 2, "batch": 8, "steps_per_epoch": 2},
        {"objectives": [{"name": "kd", "hard": 0.5}], "epochs": 2, "batch": 8, "steps_per_epoch": 2},
    ]
}
PLAIN = {"student.stages.0.objectives": [{"name": "cross_entropy"}], "student.stages.0.steps_per_epoch": 2}


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(6):
        Image.fromarray(np.full((8, 8), 40 * number, np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_DEVICE", "cpu")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A run that makes a set, and real images beside it."""
    folder = tmp_path_factory.mktemp("students")
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "real.npz", images=images, labels=np.arange(30) % 3)
    np.save(folder / "noise.npy", images[::-1])
    return Chain(folder, "ls_gdfd/digits", str(folder / "store")).make()


def after(first: Chain, run: str, given: Path, more: dict[str, Any] | None = None, **fields: Any) -> Chain:
    chain = Chain(first.folder, KD, first.store, run=run, form={"images_uri": str(given)}, more=more or {})
    return replace(chain, **fields).make()


@pytest.fixture(scope="module")
def on_set(first: Chain) -> Chain:
    return after(first, "run-2", first.folder / first.run / "set", HINTED)


@pytest.fixture(scope="module")
def on_real(first: Chain) -> Chain:
    return after(first, "run-3", first.folder / "real.npz", HINTED)


@pytest.fixture(scope="module")
def on_noise(first: Chain) -> Chain:
    return after(first, "run-4", first.folder / "noise.npy")


def page_of(chain: Chain) -> str:
    return (chain.folder / chain.run / "report.html").read_text()


def links_of(chain: Chain) -> dict[str, Any]:
    return {link.name: link for link in audit(f"{chain.store}/{chain.key}")}


def test_it_compiles_to_a_graph_without_synthesis() -> None:
    spec, _ = yaml.safe_load_all(compile_text("student_distillation"))
    assert {name: set(task.get("dependentTasks", ())) for name, task in spec["root"]["dag"]["tasks"].items()} == WIRED
    form = spec["root"]["inputDefinitions"]["parameters"]
    assert not form["images_uri"].get("isOptional")
    assert not {"gen_rounds", "synth_size", "synth_start_uri"} & set(form)


def test_a_set_is_taken_without_being_made_again(first: Chain, on_set: Chain) -> None:
    out = on_set.folder / on_set.run
    made = read_origin(on_set.student)
    assert made.inputs["set"] == read_reference(first.folder / first.run / "set").sha256
    assert read_reference(out / "set") == read_reference(first.folder / first.run / "set")
    assert load_report(out / "report.json").source == "held-out synthetic"
    assert len(list((Path(first.store) / "sets").iterdir())) == 1


def test_the_set_can_be_named_by_its_address_its_manifest_or_a_reference(first: Chain, on_set: Chain) -> None:
    uri = read_reference(first.folder / first.run / "set").uri
    for number, name in enumerate((uri, f"{uri}/manifest.json")):
        chain = after(first, f"run-5{number}", Path(name), HINTED)
        assert sha256_file(chain.student / "bundle.json") == sha256_file(on_set.student / "bundle.json"), "equal work"


def test_real_images_are_read_where_they_lie_and_named_by_hash(on_real: Chain) -> None:
    out = on_real.folder / on_real.run
    facts = read_facts(out / "set")
    assert (facts.images, facts.labels, facts.counts) == (30, True, (10, 10, 10))
    assert read_origin(on_real.student).inputs["data"] == facts.sha256
    assert "set" not in read_origin(on_real.student).inputs
    assert sorted(path.name for path in (out / "set").iterdir()) == ["images.json", "reference.json"], "no picture is copied"
    assert not (out / "set" / "images.json").read_text().count(str(on_real.folder)), "nor the place, which other machines call otherwise"
    assert load_report(out / "report.json").source == "training images"


def test_labels_are_left_alone_where_nothing_looks_at_them(first: Chain, on_noise: Chain) -> None:
    assert "images" in read_origin(on_noise.student).inputs
    chain = after(first, "run-6", first.folder / "real.npz")
    assert "images" in read_origin(chain.student).inputs
    chain = after(first, "run-7", first.folder / "real.npz", {"data.labels": "read"})
    assert "data" in read_origin(chain.student).inputs


def test_plain_training_needs_no_teacher_but_labels(first: Chain) -> None:
    chain = after(first, "run-8", first.folder / "real.npz", PLAIN)
    assert "data" in read_origin(chain.student).inputs
    with pytest.raises(ConfigError, match="cross_entropy of student.stages.0 needs true labels"):
        after(first, "run-x", first.folder / first.run / "set", PLAIN)
    with pytest.raises(ConfigError, match="noise.npy"):
        after(first, "run-x", first.folder / "noise.npy", PLAIN)


def test_the_page_says_what_was_trained_on(on_set: Chain, on_real: Chain, on_noise: Chain) -> None:
    said = {chain.run: page_of(chain) for chain in (on_set, on_real, on_noise)}
    assert "was shown no real image" in said["run-2"]
    assert "without the pictures that its teacher was trained on" in said["run-2"]
    for run in ("run-3", "run-4"):
        assert "was shown no real image" not in said[run]
        assert "without the pictures that its teacher" not in said[run]
        assert "Pictures were made up" not in said[run]
    assert "30 pictures that were there before, with their labels" in said["run-3"]
    assert "read without labels; they count as real" in said["run-4"]


def test_the_card_never_calls_a_student_of_real_images_data_free(on_set: Chain, on_real: Chain, on_noise: Chain) -> None:
    cards = [model_card(open_sources(chain.student)) for chain in (on_real, on_noise)]
    for card in cards:
        assert "was shown no real image" not in card
        assert "images that were given, not on a synthetic set" in card
    found = open_reference(on_set.folder / on_set.run / "set")
    assert "was shown no real image" in model_card(open_sources(on_set.student, manifest=found.manifest))


def test_the_page_shows_each_stage_with_its_terms(on_real: Chain) -> None:
    page = page_of(on_real)
    assert "Stages of the student, one after the other" in page
    assert "Stage 1, FitNets: its loss terms" in page
    assert "Stage 2, KD: its loss terms" in page
    assert "KD (hard 0.5, soft 1, temperature 20)" in page
    first_stage = page.split("Stage 1, FitNets")[1].split("Stage 2, KD")[0]
    assert "<code>hint</code>" in first_stage or "hint" in first_stage
    assert "following the teacher" not in first_stage


def test_the_audit_goes_on_to_the_set_s_own_run_and_its_teacher(first: Chain, on_set: Chain) -> None:
    links = links_of(on_set)
    assert {name for name, link in links.items() if link.state == "ok"} == {"student", "run", "set", "generator", "statistics", "teacher"}
    before = links_of(first)
    for name in ("set", "generator", "statistics", "teacher"):
        assert links[name].sha256 == before[name].sha256
    shard = next(Path(first.store).glob("sets/*/shards/*"))
    with changed(shard, shard.read_bytes()[:-1]), pytest.raises(StoreError, match="broken at the set: the shard"):
        links_of(on_set)


def test_the_audit_of_real_images_reads_them_again(on_real: Chain) -> None:
    links = links_of(on_real)
    assert {name: link.state for name, link in links.items()} == dict.fromkeys(("student", "run", "images", "teacher"), "ok")
    real = on_real.folder / "real.npz"
    np.savez(on_real.folder / "others.npz", images=np.zeros((9, 1, 8, 8), np.uint8), labels=np.arange(9) % 3)
    with changed(real, (on_real.folder / "others.npz").read_bytes()), pytest.raises(StoreError, match="broken at the images: those at"):
        links_of(on_real)


def test_a_set_of_another_store_is_taken_audited_and_told(first: Chain, tmp_path: Path) -> None:
    uri = read_reference(first.folder / first.run / "set").uri
    chain = after(first, "run-9", Path(uri), store=str(tmp_path / "other"))
    links = links_of(chain)
    assert links["generator"].state == "ok"
    assert links["generator"].where.startswith(first.store)
    (run,) = [run for run in list_runs(open_store(chain.store)) if run.id == "run-9"]
    assert run.standing == "finished"
    assert set_place(run.results, chain.store) == uri
    with away(Path(first.store)):
        links = links_of(chain)
    assert {name for name, link in links.items() if link.state == "unreachable"} == {"set", "generator", "statistics"}


def test_a_set_that_a_student_used_is_no_garbage(first: Chain, on_set: Chain) -> None:
    inventory = Inventory(open_store(first.store), first.folder / "work")
    assert not [item.place for item in inventory.garbage() if item.place.startswith("sets/")]
    made = [item.place for item in inventory.garbage() if "materialize" in item.place and item.reason.startswith("finished")]
    assert made == []


def test_runs_and_compare_know_students(first: Chain, on_set: Chain, on_real: Chain) -> None:
    runs = {run.id: run for run in list_runs(open_store(first.store))}
    assert runs["run-3"].document["pipeline"] == "student_distillation"
    assert runs["run-3"].recipe == KD
    assert runs["run-3"].standing == "finished"
    found = differences(runs["run-2"], runs["run-3"])
    assert found["run.images"] == (runs["run-2"].parameters["images_uri"], str(first.folder / "real.npz"))


@pytest.mark.parametrize("given", ["set", "real.npz"])
def test_the_estimate_counts_what_is_there(given: str, first: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillery.estimate.profiling._start", lambda: (1.0, 1000))
    monkeypatch.setattr("distillery.estimate.profiling.STUDENT_SECONDS", 0.2)
    place = first.folder / first.run / "set" if given == "set" else first.folder / given
    form = {
        "run_recipe": KD,
        "teacher_uri": str(first.teacher),
        "images_uri": str(place),
        "run_overrides": {f"expects.{name}": value for name, value in {"channels": 1, "height": 8, "width": 8, "classes": 3}.items()}
        | HINTED
        | {"student.architecture": {"name": "resnet8", "arguments": {"base_width": 8}}},
    }
    found = estimate("student_distillation", form, "cpu", steps=2)
    manifest = open_reference(first.folder / first.run / "set").manifest
    assert found.images == (manifest.images + manifest.holdout if given == "set" else 30)
    assert found.student_steps == 8
    assert [part.name for part in found.parts if part.name == "student"] == ["student", "student"]
    assert not [part.name for part in found.parts if part.name in ("synthesis", "labelling", "drawing the set")]


def test_stopped_between_two_stages_it_ends_as_one_left_alone(
    first: Chain, on_real: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = StudentTrainer.train

    def killed(self: StudentTrainer, steps: int, feed: Any) -> dict[str, float]:
        if self.epochs == 2:
            raise KeyboardInterrupt
        return train(self, steps, feed)

    with monkeypatch.context() as patch:
        patch.setattr(StudentTrainer, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            after(first, "run-10", first.folder / "real.npz", HINTED, store=str(tmp_path / "store"))
    chain = after(first, "run-10", first.folder / "real.npz", HINTED, store=str(tmp_path / "store"))
    assert sha256_file(chain.student / "bundle.json") == sha256_file(on_real.student / "bundle.json")


def _other_teacher(first: Chain, folder: Path) -> dict[str, Any]:
    return {"teacher_uri": str(make_teacher(folder / "other", seed=1))}


def _larger(first: Chain, folder: Path) -> dict[str, Any]:
    np.savez(folder / "large.npz", images=np.zeros((6, 9, 9), np.uint8))
    return {"images_uri": str(folder / "large.npz")}


def _empty(first: Chain, folder: Path) -> dict[str, Any]:
    (folder / "empty").mkdir()
    return {"images_uri": str(folder / "empty")}


def _unlabelled(first: Chain, folder: Path) -> dict[str, Any]:
    write_pictures(folder / "loose")
    return {"images_uri": str(folder / "loose"), "run_overrides": PLAIN}


def _unknown_class(first: Chain, folder: Path) -> dict[str, Any]:
    write_pictures(folder / "classes" / "zebra")
    return {"images_uri": str(folder / "classes"), "run_overrides": PLAIN}


BAD: dict[str, tuple[Any, type[DistilleryError], str]] = {
    "another teacher's set": (_other_teacher, CheckpointMismatchError, "was made with the teacher .* or write its images with"),
    "nothing given": (
        lambda first, folder: {"images_uri": ""},
        ConfigError,
        "--images is missing: give the set",
    ),
    "not there": (lambda first, folder: {"images_uri": str(folder / "nowhere")}, MissingResourceError, "nowhere"),
    "other size": (_larger, ConfigError, r"large.npz' have shape \[1, 9, 9\], but the teacher takes \[1, 8, 8\]"),
    "an empty folder": (_empty, DistilleryError, "empty"),
    "no labels": (_unlabelled, ConfigError, "loose"),
    "a folder that is no class": (_unknown_class, ConfigError, "folder 'zebra', which is no class: .* data.labels: ignore"),
    "a plan of no name": (lambda first, folder: {"student_method": "fps"}, ConfigError, "no student method 'fps'; known: .*'fsp'"),
    "images nobody asks for": (
        lambda first, folder: {"synth_ood_uri": str(first.folder / "noise.npy")},
        ConfigError,
        "are for nobody",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(name: str, first: Chain, tmp_path: Path) -> None:
    make, kind, sentence = BAD[name]
    base = {"expects.height": 8, "expects.width": 8, "expects.classes": 3}
    form = {"run_recipe": KD, "teacher_uri": str(first.teacher), "images_uri": str(first.folder / first.run / "set")}
    changes = make(first, tmp_path)
    form |= {**changes, "run_overrides": {**base, **changes.get("run_overrides", {})}}
    chain = replace(first, run="run-bad", store=str(tmp_path / "store"))
    with chain.environment(), pytest.raises(kind, match=sentence) as said:
        plan.run("student_distillation", form)
    assert len(re.findall(r"[.!?] [A-Z]", str(said.value))) == 0
    assert not (tmp_path / "store" / "runs").exists()


def test_a_damaged_set_is_refused_before_anything_is_trained(first: Chain, tmp_path: Path) -> None:
    shard = next(Path(first.store).glob("sets/*/shards/*"))
    with changed(shard, shard.read_bytes()[:-1] + b"?"), pytest.raises(StoreError, match=r"shard.*"):
        after(first, "run-12", first.folder / first.run / "set", store=str(tmp_path / "store"))
    assert not (tmp_path / "store" / "checkpoints" / "train_student").exists()
    assert not (first.folder / "run-12" / "set").exists()


def test_a_plan_by_name_trains_in_every_pipeline(first: Chain) -> None:
    form = {"images_uri": str(first.folder / "real.npz"), "student_method": "fitnets"}
    values = {"run_recipe": KD, "teacher_uri": str(first.teacher), **form}
    small = {"expects.height": 8, "expects.width": 8, "expects.classes": 3, "student.architecture.arguments.base_width": 8}
    with replace(first, run="run-13").environment():
        sections = plan.run("student_distillation", {**values, "run_overrides": small})
        assert [stage["objectives"][0]["name"] for stage in sections["student"]["student"]["stages"]] == ["fitnets", "kd"]
        changes = {**small, "student.stages.1.epochs": 3}
        sections = plan.run("student_distillation", {**values, "run_overrides": changes})
        assert sections["student"]["student"]["stages"][1]["epochs"] == 3, "overrides are of the plan that is chosen"
        for recipe, pipeline in (("ls_gdfd/digits", "generative_distillation"), ("fast_dfkd/digits", "online_distillation")):
            asked = {"run_recipe": recipe, "teacher_uri": str(first.teacher), "run_overrides": small}
            planned = plan.run(pipeline, {**asked, "student_method": "attention-kd"})
            section = planned.get("student") or planned["distill"]
            assert [one["name"] for one in section["student"]["stages"][0]["objectives"]] == ["kd", "attention"]
            with pytest.raises(ConfigError, match="needs true labels, which synthetic images do not have"):
                plan.run(pipeline, {**asked, "student_method": "plain"})


def test_what_was_made_has_the_size_that_was_asked(on_noise: Chain) -> None:
    assert read_bundle(on_noise.student)[0].num_classes == 3
