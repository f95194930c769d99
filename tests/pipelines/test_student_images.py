"""What a student is given: noise that nobody keeps, and real images of which a share is held out to choose the best epoch by."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from chains import EXPECTS, STAGE, Chain, make_teacher
from distillery.data.given import read_facts, withhold
from distillery.errors import ConfigError
from distillery.evaluation.predict import predict
from distillery.evaluation.report import load_report
from distillery.ledger.audit import audit
from distillery.models.bundle import load_classifier, read_origin
from distillery.provenance import sha256_file
from distillery.reporting.card import model_card, open_sources
from distillery.steps import plan
from distillery.storage import open_store
from distillery_kfp.pipelines.runner.local import _Run
from distillery_kfp.pipelines.runner.outcome import show_result
from distillery_kfp.pipelines.runner.request import RunRequest

KD = "students/digits-kd"
HARD = {"student.stages": [{**STAGE, "objectives": [{"name": "kd", "hard": 0.5}], "steps_per_epoch": 0}]}


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    make_teacher(folder / "teacher")
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "real.npz", images=images, labels=np.arange(30) % 3)
    return folder


def on(desk: Path, run: str, images: str, **more: Any) -> Chain:
    return Chain(desk, KD, str(desk / "store"), run=run, form={"images_uri": images}, more={**HARD, **more}).make()


@pytest.fixture(scope="module")
def noisy(desk: Path) -> Chain:
    return on(desk, "run-1", "noise://40")


@pytest.fixture(scope="module")
def withheld(desk: Path) -> Chain:
    return on(desk, "run-2", str(desk / "real.npz"), **{"data.holdout": 0.2})


def links_of(chain: Chain) -> dict[str, Any]:
    return {link.name: link for link in audit(f"{chain.store}/{chain.key}")}


def test_noise_is_drawn_again_wherever_it_is_read(desk: Path, noisy: Chain) -> None:
    facts = read_facts(desk / "run-1" / "set")
    assert (facts.images, facts.labels) == (40, False)
    assert read_origin(noisy.student).inputs["noise"] == facts.sha256
    link = links_of(noisy)["images"]
    assert (link.state, link.where, link.what) == ("ok", "noise://40", "40 images of noise, drawn again")
    other = on(desk, "run-3", "noise://40?seed=1")
    assert read_facts(desk / "run-3" / "set").sha256 != facts.sha256
    assert sha256_file(other.student / "bundle.json") != sha256_file(noisy.student / "bundle.json")


def test_noise_is_told_as_noise_and_no_real_image(desk: Path, noisy: Chain) -> None:
    page = (desk / "run-1" / "report.html").read_text()
    assert "40 images of noise, drawn from a seed" in page
    assert "was shown no real image" in page
    card = model_card(open_sources(noisy.student))
    assert "was trained on noise, drawn from a seed" in card
    assert "count as real" not in page + card


def test_a_held_out_share_is_never_trained_on_and_chooses_the_best_epoch(desk: Path, withheld: Chain) -> None:
    facts = read_facts(desk / "run-2" / "set")
    assert (facts.images, facts.holdout) == (30, 6)
    report = load_report(desk / "run-2" / "report.json")
    assert (report.source, report.images) == ("held-out images", 6)
    (best,) = report.best
    assert best.chosen_on == 6
    images = torch.from_numpy(np.load(desk / "real.npz")["images"])[withhold(30, 6)[1]]
    teacher, student = (predict(load_classifier(folder), images) for folder in (desk / "teacher", withheld.student))
    assert report.agreement.agreed == int((teacher.argmax(1) == student.argmax(1)).sum())
    page = (desk / "run-2" / "report.html").read_text()
    assert "images that were kept back" in page
    assert "Nothing was held out" not in page


def test_real_images_are_called_so_when_their_run_ends(desk: Path, withheld: Chain) -> None:
    request = RunRequest(withheld.recipe, str(withheld.teacher), withheld.store, desk / "work", run_id=withheld.run)
    screen = Console(width=200, record=True, file=io.StringIO())
    show_result(screen, _Run(request, "student_distillation", open_store(withheld.store)).close())
    said = [line.split()[0] for line in screen.export_text().splitlines() if line.rstrip().endswith("real.npz")]
    assert said == ["images"]


def test_who_trains_on_what(desk: Path, withheld: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    from distillery.workbench import sources

    fed: list[torch.Tensor] = []
    feed = sources.LabelledFeed

    def spy(pool: Any) -> Any:
        fed.append(pool.images.clone())
        return feed(pool)

    monkeypatch.setattr(sources, "LabelledFeed", spy)
    again = replace(withheld, run="run-4", store=str(desk / "elsewhere"), more={**withheld.more}).make()
    real = torch.from_numpy(np.load(desk / "real.npz")["images"])
    assert torch.equal(fed[0], real[withhold(30, 6)[0]])
    assert sha256_file(again.student / "bundle.json") == sha256_file(withheld.student / "bundle.json")


def test_another_share_is_other_work(desk: Path, withheld: Chain) -> None:
    others = [on(desk, "run-5", str(desk / "real.npz"), **{"data.holdout": 0.4}), on(desk, "run-6", str(desk / "real.npz"))]
    assert load_report(desk / "run-6" / "report.json").source == "training images"
    hashes = {sha256_file(chain.student / "bundle.json") for chain in (withheld, *others)}
    assert len(hashes) == 3


def test_the_withheld_are_drawn_from_all_and_the_rest_is_whole() -> None:
    kept, held_out = withhold(30, 6)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(30))
    assert len(held_out) == 6
    assert held_out.tolist() != list(range(6))
    assert [part.tolist() for part in withhold(30, 0)] == [list(range(30)), []]


@pytest.mark.parametrize(
    ("images", "overrides", "said"),
    [
        ("noise://x", {}, "'noise://x' is not allowed: write noise://COUNT"),
        ("noise://40", {"student.stages.0.objectives": [{"name": "cross_entropy"}]}, "needs true labels"),
        ("real.npz", {"data.holdout": 0.01}, "of 30 images .* leaves 30 to train on and 0 to choose the best epoch by"),
        ("real.npz", {"data.holdout": 0.6}, "holdout"),
        (
            "real.npz",
            {"data.holdout": 0.2, "student.classes": 4, "student.stages.0.objectives": [{"name": "cross_entropy"}]},
            "is not allowed with student.classes",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_the_plan(desk: Path, images: str, overrides: dict[str, Any], said: str) -> None:
    place = images if "://" in images else str(desk / images)
    form = {"run_recipe": KD, "teacher_uri": str(desk / "teacher"), "images_uri": place, "run_overrides": {**EXPECTS, **overrides}}
    with Chain(desk, KD, str(desk / "store"), run="never").environment(), pytest.raises(ConfigError, match=said):
        plan.run("student_distillation", form)
