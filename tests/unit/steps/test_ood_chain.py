"""A method that learns from images of another domain, a student that mixes them in, and what their files, page and audit say."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import distillery
from chains import SHARED, Chain
from distillery.api.running import run_step
from distillery.data.ood import load_ood
from distillery.data.reference import open_reference
from distillery.errors import CheckpointMismatchError, ConfigError, StoreError
from distillery.ledger.audit import audit
from distillery.ledger.runs import find_run
from distillery.models.bundle import read_bundle, read_origin
from distillery.recipes.sections import StudentSection
from distillery.reporting.command import run_again
from distillery.steps import plan, train_student
from distillery.storage import open_store
from distillery.synthesis.bundle import read_synthesizer
from distillery.workbench.assembly import open_teacher
from distillery.workbench.sources import open_planned_ood
from distillery_kfp.pipelines.cli.app import app
from distillery_kfp.pipelines.runner.request import RunRequest
from distillery_kfp.pipelines.runner.resume import request_of
from toy_methods import TOYS, registered


def write_others(folder: Path, value: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(12):
        pixels = np.random.default_rng(value + number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """`toy_critic`, a quarter of each of the student's batches from a folder of loose pictures."""
    folder = tmp_path_factory.mktemp("ood")
    write_others(folder / "others", 0)
    stage = {**SHARED["student.stages"][0], "ood_share": 0.25, "steps_per_epoch": 1}
    recipe = {
        "about": {"title": "A toy."},
        "synthesis": {"method": "toy_critic", "rounds": 1, "config": TOYS["toy_critic"].tiny},
        "set": {"size": 12, "batch": 8, "holdout": 0.25, "max_oversampling": 2.0},
        "student": {"architecture": SHARED["student.architecture"]},
    }
    (folder / "critic.yaml").write_text(yaml.safe_dump(recipe))
    with registered(), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        form = {"synth_ood_uri": str(folder / "others")}
        yield Chain(folder, str(folder / "critic.yaml"), str(folder / "store"), more={"student.stages": [stage]}, form=form).make()


def digest(chain: Chain) -> str:
    return load_ood(str(chain.folder / "others"), read_bundle(chain.teacher)[0].spec).digest


def test_everything_that_was_made_with_them_names_them(chain: Chain) -> None:
    out = chain.folder / chain.run
    made = [
        read_synthesizer(out / "synthesizer")[0].provenance,
        open_reference(out / "set").manifest.provenance,
        read_origin(chain.student),
    ]
    assert [origin.inputs["ood"] for origin in made] == [digest(chain)] * 3
    assert [origin.config["ood_sha256"] for origin in made] == [digest(chain)] * 3
    assert str(chain.folder / "others") not in json.dumps([origin.to_json() for origin in made])


def test_the_page_and_the_audit_say_that_real_images_were_used(chain: Chain) -> None:
    page = (chain.folder / chain.run / "report.html").read_text()
    assert "out-of-distribution (OOD) ones, were used" in page
    assert "shown no real image" not in page
    (link,) = (link for link in audit(f"{chain.store}/{chain.key}") if link.name == "images of another domain")
    assert (link.state, link.sha256, link.where) == ("ok", digest(chain), str(chain.folder / "others"))
    assert link.what.startswith("12 real images of another domain")


def test_the_record_suffices_to_ask_for_them_again(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = find_run(open_store(chain.store), chain.run)
    assert ("--ood", str(chain.folder / "others")) in run_again(run.parameters, {})
    request = request_of(replace(run, standing="failed"), chain.store, tmp_path)
    assert request.arguments()["synth_ood_uri"] == str(chain.folder / "others")
    asked: list[RunRequest] = []
    monkeypatch.setattr("distillery_kfp.pipelines.cli.running.carry_out", asked.append)
    answer = CliRunner().invoke(app, ["run", chain.recipe, "--teacher", str(chain.teacher), "--ood", "others"])
    assert answer.exit_code == 0, answer.output
    assert asked[0].arguments()["synth_ood_uri"] == str(Path("others").absolute())


def test_others_than_the_plan_saw_are_refused_and_the_audit_finds_them(chain: Chain, tmp_path: Path) -> None:
    section = chain.sections["student"]
    given: dict[str, Any] = {"teacher_uri": str(chain.teacher), "set": chain.folder / chain.run / "set"}
    outputs = train_student.Outputs(student=tmp_path / "student")
    with chain.environment(), pytest.raises(ConfigError, match="--ood is missing, but the run was planned with images of another"):
        train_student.run(section, train_student.Inputs(**given), outputs)
    write_others(chain.folder / "others", 100)
    try:
        with chain.environment(), pytest.raises(CheckpointMismatchError, match=r"and was .* when the run was planned: plan it again"):
            train_student.run(section, train_student.Inputs(**given, synth_ood_uri=str(chain.folder / "others")), outputs)
        with pytest.raises(StoreError, match=r"broken at the images of another domain: those at .* have sha256 .* names"):
            audit(f"{chain.store}/{chain.key}")
    finally:
        write_others(chain.folder / "others", 0)


def test_an_audit_where_they_are_not_claims_nothing_of_them(chain: Chain) -> None:
    aside = (chain.folder / "others").rename(chain.folder / "aside")
    try:
        states = {link.name: link.state for link in audit(f"{chain.store}/{chain.key}")}
    finally:
        aside.rename(chain.folder / "others")
    assert states["images of another domain"] == "unreachable"
    assert states["set"] == states["teacher"] == "ok"


def test_a_step_that_uses_none_leaves_them_to_the_others(chain: Chain) -> None:
    section = StudentSection.parse({**chain.sections["student"], "ood_sha256": ""})
    with chain.environment():
        assert open_planned_ood(section, "nowhere", open_teacher(section, str(chain.teacher))) is None


def test_the_api_draws_more_where_it_is_given_what_the_method_learned_from(chain: Chain, tmp_path: Path) -> None:
    synthesizer, options = chain.folder / chain.run / "synthesizer", {"set": {"batch": 8, "holdout": 0, "max_oversampling": 1.0}}
    asked: dict[str, Any] = {"options": options, "device": "cpu"}
    with pytest.raises(ConfigError, match="trained by Toy Critic, which learns from images of another domain, and none are given"):
        distillery.materialize(chain.teacher, synthesizer, tmp_path / "none", 8, **asked)
    made = distillery.materialize(chain.teacher, synthesizer, tmp_path / "more", 8, ood=chain.folder / "others", **asked)
    assert made.open().manifest.provenance.inputs["ood"] == digest(chain)


def test_the_api_distils_with_them(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learns from images of another domain, but there are none"):
        distillery.distill(chain.teacher, chain.recipe, tmp_path / "none", device="cpu")
    found = distillery.distill(
        chain.teacher, chain.recipe, tmp_path / "out", ood=chain.folder / "others", overrides=chain.more, device="cpu", store=chain.store
    )
    assert read_bundle(found.student)[1] == read_bundle(chain.student)[1]


def test_a_student_that_plays_online_mixes_them_in(chain: Chain, tmp_path: Path) -> None:
    recipe = {
        "about": {"title": "A toy."},
        "synthesis": {"method": "toy_opponent", "rounds": 1, "student_steps_per_turn": 1, "config": TOYS["toy_opponent"].tiny},
        "student": {"architecture": SHARED["student.architecture"], "stages": chain.more["student.stages"]},
    }
    (tmp_path / "opponent.yaml").write_text(yaml.safe_dump(recipe))
    given = {"teacher_uri": str(chain.teacher), "synth_ood_uri": str(chain.folder / "others")}
    places = {name: tmp_path / name for name in ("synthesizer", "set", "student")}
    with chain.environment():
        sections = plan.run("online_distillation", {**given, "run_recipe_uri": str(tmp_path / "opponent.yaml")})
        run_step("distill_online", sections["distill"], places, given)
    for origin in (read_origin(places["student"]), open_reference(places["set"]).manifest.provenance):
        assert origin.inputs["ood"] == origin.config["ood_sha256"] == digest(chain)
