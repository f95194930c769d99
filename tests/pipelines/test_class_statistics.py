"""A teacher's statistics of each class, both ways, as pipelines: on images inverted from it, and on images that are there."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import distillery
from chains import EXPECTS, Chain, away, changed, flip, make_teacher
from distillery.data.reference import open_reference, read_reference
from distillery.errors import CheckpointMismatchError, ConfigError, DistilleryError, StoreError
from distillery.estimate.estimate import estimate
from distillery.ledger.audit import audit
from distillery.ledger.compare import differences
from distillery.ledger.prune import Inventory
from distillery.ledger.runs import list_runs
from distillery.models.bundle import VerifiedBundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version, sha256_file
from distillery.statistics.extract import class_moments
from distillery.statistics.moments import load_moments, read_origin
from distillery.step_table import PIPELINES
from distillery.steps import plan
from distillery.storage import open_store
from distillery.types import Classifier, ImageSpec
from distillery_kfp.pipelines.compile import compile_text
from distillery_kfp.pipelines.metadata import component
from toy_methods import registered

GIVEN = "statistics/images"
RECIPE = {
    "kind": "statistics",
    "about": {"title": "A toy."},
    "synthesis": {"method": "toy_inversion", "config": {"batch": 9, "steps": 4, "label_weight": 1.0}},
    "set": {"max_oversampling": 50.0, "shard_images": 8},
    "per_class": 3,
}
TARGETS = {"synthesis.config.targets": "class", "synthesis.config.images_per_class": 4}
EXPECTED = {name.removeprefix("expects."): value for name, value in EXPECTS.items()}
WIRED = {
    "class_statistics": {
        "plan": set(),
        "extract-statistics": {"plan"},
        "materialize": {"plan", "extract-statistics"},
        "extract-class-statistics": {"plan", "materialize"},
    },
    "image_statistics": {"plan": set(), "open-set": {"plan"}, "extract-class-statistics": {"plan", "open-set"}},
}


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, registered():
        patch.setenv("DISTILLERY_DEVICE", "cpu")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that names some noise as each class, a recipe, and labelled images."""
    place = tmp_path_factory.mktemp("class-statistics")
    make_teacher(place / "teacher", seed=2)
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    images = np.random.default_rng(0).integers(0, 256, (14, 1, 8, 8), dtype=np.uint8)
    np.savez(place / "real.npz", images=images, labels=np.array([0, 1, 2] * 4 + [2, 2]))
    np.save(place / "unlabelled.npy", images)
    return place


def chain(folder: Path, run: str, recipe: str = "", **fields: Any) -> Chain:
    made = Chain(folder, recipe or str(folder / "recipe.yaml"), str(folder / "store"), run=run)
    return replace(made, **fields).make()


@pytest.fixture(scope="module")
def inverted(folder: Path) -> Chain:
    return chain(folder, "run-1")


@pytest.fixture(scope="module")
def measured(folder: Path) -> Chain:
    return chain(folder, "run-2", GIVEN, form={"images_uri": str(folder / "real.npz")})


def file_of(made: Chain) -> Path:
    return made.folder / made.run / "class_statistics"


def kept_of(made: Chain) -> Path:
    """The file in the store, where a later run finds it."""
    return Path(made.store) / "statistics" / f"{sha256_file(file_of(made))}.safetensors"


@pytest.mark.parametrize("pipeline", WIRED)
def test_it_compiles_to_a_graph_that_ends_in_statistics(pipeline: str) -> None:
    spec, _ = yaml.safe_load_all(compile_text(pipeline))  # which holds every rule of the lint
    assert {name: set(task.get("dependentTasks", ())) for name, task in spec["root"]["dag"]["tasks"].items()} == WIRED[pipeline]
    form = spec["root"]["inputDefinitions"]["parameters"]
    assert ("synth_per_class" in form) == ("synth_statistics_uri" in form) == (pipeline == "class_statistics")
    assert ("images_uri" in form) == (pipeline == "image_statistics")
    assert not {"student_architecture", "student_method", "eval_data_uri", "mlflow_model_name", "gen_rounds", "synth_size"} & set(form)


def test_images_of_each_class_are_inverted_kept_as_a_set_and_measured(inverted: Chain) -> None:
    out, bundle = inverted.folder / inverted.run, VerifiedBundle(inverted.teacher)
    assert set(inverted.sections) == {"statistics", "materialize", "class_statistics"}
    found = open_reference(out / "set", bundle.sha256)
    assert (found.manifest.images, found.manifest.holdout, found.manifest.counts) == (9, 0, (3, 3, 3))
    shard, moments = found.load("train"), load_moments(file_of(inverted), bundle.sha256)
    expected = class_moments(bundle.classifier, shard.images, shard.teacher_logits.argmax(dim=1), bundle.sha256)
    assert moments.counts is not None
    assert moments.counts.tolist() == [3, 3, 3]
    for path, value in expected.mean.items():
        torch.testing.assert_close(moments.mean[path], value, rtol=1e-4, atol=1e-5)
    assert read_origin(file_of(inverted)).inputs == {"teacher": bundle.sha256, "set": found.digest}
    assert (inverted.registered["images"], inverted.registered["fewest"]) == (9, 3)


def test_labelled_images_are_measured_where_they_lie_with_their_own_labels(measured: Chain) -> None:
    bundle = VerifiedBundle(measured.teacher)
    moments = load_moments(file_of(measured), bundle.sha256)
    assert moments.counts is not None
    assert moments.counts.tolist() == [4, 4, 6]
    assert set(read_origin(file_of(measured)).inputs) == {"teacher", "data"}
    assert not [name for name in (Path(measured.store) / "sets").glob("*") if "real" in name.name]
    assert str(measured.folder) not in file_of(measured).read_bytes().decode(errors="replace")


def test_a_set_that_is_there_gives_the_statistics_that_its_own_run_gave(inverted: Chain) -> None:
    again = chain(inverted.folder, "run-3", GIVEN, form={"images_uri": str(inverted.folder / inverted.run / "set")})
    assert again.pipeline == "image_statistics"
    assert file_of(again).read_bytes() == file_of(inverted).read_bytes(), "equal work"


def test_a_run_leaves_its_statistics_in_the_store_and_is_finished(inverted: Chain, measured: Chain) -> None:
    runs = {run.id: run for run in list_runs(open_store(inverted.store))}
    for made in (inverted, measured):
        run = runs[made.run]
        assert run.standing == "finished"
        assert run.results["statistics"] == f"statistics/{kept_of(made).name}"
        assert kept_of(made).read_bytes() == file_of(made).read_bytes()
        shown = run.to_json(made.store)
        assert shown["statistics"] == str(kept_of(made))
        assert shown["student_top1"] is None
    assert (runs["run-1"].recipe, runs["run-2"].recipe) == ("recipe", GIVEN)
    assert runs["run-1"].results["dataset"]["sha256"] == read_reference(inverted.folder / "run-1" / "set").sha256
    assert runs["run-2"].results["dataset"]["at"] == str(inverted.folder / "real.npz")
    assert differences(runs["run-1"], runs["run-2"])["run.pipeline"] == ("class_statistics", "image_statistics")


def test_nothing_of_a_finished_run_is_garbage(inverted: Chain, measured: Chain) -> None:
    found = Inventory(open_store(inverted.store), inverted.folder / "work").garbage()
    assert not [item.place for item in found if item.place.startswith(("statistics", "sets"))]
    assert not [item.place for item in found if item.reason.startswith(("finished", "unfinished"))]


def test_what_was_done_is_taken_and_another_number_is_another_set(inverted: Chain, tmp_path: Path) -> None:
    again = chain(inverted.folder, "run-4")
    assert file_of(again).read_bytes() == file_of(inverted).read_bytes()
    assert len(list((Path(inverted.store) / "checkpoints" / "materialize").iterdir())) == 1
    more = chain(inverted.folder, "run-5", form={"synth_per_class": 4}, store=str(tmp_path / "store"))  # type: ignore[dict-item]
    assert load_moments(file_of(more), VerifiedBundle(more.teacher).sha256).counts.tolist() == [4, 4, 4]  # type: ignore[union-attr]


def test_inverting_in_python_is_that_pipeline(inverted: Chain, tmp_path: Path) -> None:
    document = {**RECIPE, "kind": "distillation", "set": {**RECIPE["set"], "size": 5}, "expects": EXPECTED}  # type: ignore[dict-item]
    del document["per_class"]
    document["student"] = {"architecture": {"name": "lenet5"}, "stages": [{"objectives": [{"name": "kd"}], "epochs": 1, "batch": 4}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    made = distillery.invert(inverted.teacher, tmp_path / "recipe.yaml", tmp_path / "out", 3, device="cpu")
    assert load_moments(made.statistics, VerifiedBundle(inverted.teacher).sha256).counts.tolist() == [3, 3, 3]  # type: ignore[union-attr]
    (run,) = list_runs(open_store(str(tmp_path / "out" / "store")))
    assert (run.id, run.standing, run.document["pipeline"]) == (made.run_id, "finished", "class_statistics")
    assert (tmp_path / "out" / "store" / run.results["statistics"]).read_bytes() == made.statistics.read_bytes()


def test_a_later_run_matches_them_and_its_page_and_audit_tell_on_how_many_images(inverted: Chain, measured: Chain) -> None:
    pages, audits = [], []
    for number, made in enumerate((inverted, measured)):
        form = {"synth_statistics_uri": str(kept_of(made))}
        used = Chain(made.folder, "ls_gdfd/digits", made.store, run=f"run-6{number}", more=TARGETS, form=form)
        used.make()
        assert used.sections["statistics"]["given_sha256"] == sha256_file(kept_of(made))
        pages.append((used.folder / used.run / "report.html").read_text())
        links = {link.name: link for link in audit(f"{used.store}/{used.key}")}
        assert {name for name, link in links.items() if link.state == "ok"} == {
            "student",
            "run",
            "set",
            "generator",
            "statistics",
            "teacher",
        }
        audits.append(links["statistics"].what)
    assert (
        "measured on synthetic images: 3 of each of 3 classes; fewer than 300, too few for stable moments: a (3), b (3), c (3)" in audits[0]
    )
    assert "measured on real labelled images: 4 of a, 4 of b, 6 of c; fewer than 300" in audits[1]
    assert "synthetic images, which were inverted from the teacher: 3 of each of 3 classes." in pages[0]
    assert "real labelled images, by whoever owns them: 4 of a, 4 of b, 6 of c." in pages[1]
    assert all("Below it: a (" in page for page in pages)


def test_the_audit_of_a_file_goes_back_to_its_teacher_and_finds_one_changed_byte(inverted: Chain, measured: Chain) -> None:
    links = {link.name: link for link in audit(str(kept_of(inverted)))}
    assert {name: link.state for name, link in links.items()} == {
        **dict.fromkeys(("class statistics", "run", "set", "teacher"), "ok"),
        **dict.fromkeys(("generator", "statistics"), "unused"),
    }
    assert "measured on synthetic images: 3 of each of 3 classes; fewer than 300" in links["class statistics"].what
    assert links["set"].sha256 == read_origin(file_of(inverted)).inputs["set"]
    links = {link.name: link for link in audit(str(kept_of(measured)))}
    assert {name: link.state for name, link in links.items()} == dict.fromkeys(("class statistics", "run", "images", "teacher"), "ok")
    assert "4 of a, 4 of b, 6 of c" in links["class statistics"].what
    with (
        changed(kept_of(inverted), flip(kept_of(inverted).read_bytes())),
        pytest.raises(StoreError, match="broken at the class statistics"),
    ):
        audit(str(kept_of(inverted)))
    shard = next(Path(read_reference(inverted.folder / inverted.run / "set").uri, "shards").iterdir())
    with changed(shard, shard.read_bytes()[:-1]), pytest.raises(StoreError, match="broken at the set: the shard"):
        audit(str(kept_of(inverted)))
    with away(inverted.teacher):
        links = {link.name: link for link in audit(str(kept_of(measured)))}
    assert (links["class statistics"].state, links["teacher"].state) == ("ok", "unreachable")


def refused(folder: Path, pipeline: str, **form: Any) -> str:
    made = Chain(folder, "", str(folder / "elsewhere"), run="run-x")
    given = {"teacher_uri": str(folder / "teacher"), **form}
    with made.environment(), pytest.raises(DistilleryError) as caught:
        plan.run(pipeline, given)
    return str(caught.value)


def test_what_a_plan_cannot_measure_is_one_sentence(folder: Path, inverted: Chain, tmp_path: Path) -> None:
    own = {"run_recipe_uri": str(folder / "recipe.yaml")}
    said = refused(folder, "class_statistics", run_recipe="ls_gdfd/digits", run_overrides={"kind": "statistics"})
    assert said.startswith("ls_gdfd trains a generator and inverts no images: give a recipe of one of ")
    said = refused(folder, "class_statistics", run_recipe="adaptive_deep_inversion/digits", run_overrides={"kind": "statistics"})
    assert said.startswith("adaptive_deep_inversion needs a student to play against and inverts no images: give a recipe of one of ")
    said = refused(folder, "class_statistics", run_recipe="deep_inversion/digits")
    assert said.endswith("which class_statistics does not run: run it with inversion_distillation.")
    said = refused(folder, "image_statistics", **own, images_uri=str(folder / "real.npz"))
    assert "measures statistics of each class on images that are inverted, which image_statistics does not run: run it with class_" in said
    assert "per_class" in refused(folder, "class_statistics", **own, run_overrides={"per_class": 1})
    assert "Unknown key 'set.size'" in refused(folder, "class_statistics", **own, run_overrides={"set.size": 9})
    assert "set.max_bytes = 64: lower per_class, or raise it." in refused(
        folder, "class_statistics", **own, run_overrides={"set.max_bytes": 64}
    )
    unlabelled = refused(folder, "image_statistics", run_recipe=GIVEN, images_uri=str(folder / "unlabelled.npy"))
    assert "unlabelled.npy" in unlabelled
    assert "data.labels" not in unlabelled
    np.savez(tmp_path / "two.npz", images=np.zeros((4, 1, 8, 8), np.uint8), labels=np.array([0, 1, 0, 1]))
    said = refused(folder, "image_statistics", run_recipe=GIVEN, images_uri=str(tmp_path / "two.npz"))
    assert said == "No images of class c were given: per-class moments need images of every class."
    said = refused(folder, "image_statistics", run_recipe=GIVEN, images_uri="noise://60")
    assert said == "'noise://60' is not allowed here: noise shows no class of the teacher; give labelled images, or a set."
    assert refused(folder, "image_statistics", run_recipe=GIVEN).startswith("--images is missing: ")
    said = refused(
        folder, "image_statistics", run_recipe=GIVEN, images_uri=str(folder / "real.npz"), student_start_uri=str(folder / "teacher")
    )
    assert "means nothing to image_statistics" in said


def test_another_teacher_and_one_without_layers_to_measure_are_refused(folder: Path, inverted: Chain, tmp_path: Path) -> None:
    other = str(make_teacher(tmp_path / "other", seed=1))
    own = {"run_recipe_uri": str(folder / "recipe.yaml")}
    said = refused(folder, "image_statistics", run_recipe=GIVEN, images_uri=str(folder / "run-1" / "set"), teacher_uri=other)
    assert "was made with the teacher" in said
    said = refused(folder, "class_statistics", **own, teacher_uri=other, synth_statistics_uri=str(kept_of(inverted)))
    assert "belong to teacher" in said
    spec, architecture = (
        ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,)),
        Architecture(name="lenet5", arguments={"batch_norm": False}),
    )
    bare = Classifier(build_network(architecture, spec, 3), spec, ("a", "b", "c"))
    save_classifier(tmp_path / "bare", bare, architecture, Provenance(code_version=code_version()))
    said = refused(folder, "image_statistics", run_recipe=GIVEN, images_uri=str(folder / "real.npz"), teacher_uri=str(tmp_path / "bare"))
    assert said.startswith("The teacher 'lenet5' has no BatchNorm2d layer")
    with pytest.raises(ConfigError, match="kind statistics measures the teacher's statistics of each class and trains no student"):
        distillery.distill(folder / "teacher", folder / "recipe.yaml", tmp_path / "out")
    with pytest.raises(CheckpointMismatchError):
        distillery.distill(other, "ls_gdfd/digits", tmp_path / "run", statistics=kept_of(inverted), overrides=EXPECTS)


def test_classes_with_few_images_are_warned_of_by_name_where_the_run_is_planned(
    folder: Path, measured: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    with replace(measured, run="run-7").environment():
        plan.run("image_statistics", {"run_recipe": GIVEN, "teacher_uri": str(measured.teacher), "images_uri": str(folder / "real.npz")})
    assert "Classes with fewer than 300 images" in caplog.text
    assert "a (4), b (4), c (6)" in caplog.text


def test_its_component_measures_what_it_is_handed(measured: Chain, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {}
    with replace(measured, run="").environment():
        component("extract_class_statistics").python_func(
            section=measured.sections["class_statistics"],
            teacher_uri=str(measured.teacher),
            accelerators="0",
            dataset=SimpleNamespace(path=str(measured.folder / measured.run / "set")),
            class_statistics=SimpleNamespace(path=str(tmp_path / "moments")),
            metrics=SimpleNamespace(log_metric=numbers.__setitem__),
        )
    assert (tmp_path / "moments").read_bytes() == file_of(measured).read_bytes()
    assert numbers == measured.registered


@pytest.mark.parametrize("pipeline", WIRED)
def test_the_estimate_counts_what_is_inverted_or_there(pipeline: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillery.estimate.profiling._start", lambda: (1.0, 1000))
    monkeypatch.setattr("distillery.estimate.profiling.SYNTHESIS_SECONDS", 0.2)
    monkeypatch.setattr("distillery.estimate.profiling.FORWARD_SECONDS", 0.1)
    given = {"images_uri": str(folder / "real.npz"), "run_recipe": GIVEN}
    form = given if pipeline == "image_statistics" else {"run_recipe_uri": str(folder / "recipe.yaml")}
    found = estimate(pipeline, {**form, "teacher_uri": str(folder / "teacher")}, "cpu", steps=1)
    assert (found.images, found.student_steps) == ((14, 0) if pipeline == "image_statistics" else (9, 0))
    names = [part.name for part in found.parts]
    assert (
        names == ["measuring", "starting steps"]
        if pipeline == "image_statistics"
        else ["synthesis", "labelling", "measuring", "starting steps"]
    )
    assert PIPELINES[pipeline].steps[-1] == "extract_class_statistics"
    json.dumps(found.recipe.to_json())
