"""The page of a real run, opened in a real browser: what it shows is what the run's files say."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from browser import Page, find_chromium, open_browser
from distillery import Distilled, distill
from distillery.evaluation.accuracy import whole_matrix
from distillery.models.bundle import read_bundle, save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version, sha256_file
from distillery.recipes.loader import load_recipe
from distillery.reporting import words
from distillery.step_table import PIPELINES, STEPS, Pipeline
from distillery.types import Classifier, ImageSpec
from short_recipes import SHORT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MORE = {"student.keep_epochs": 1, "evaluation.latency": True, "evaluation.timing": {"batches": [1, 2], "warmup": 1, "repeats": 3}}
SMALLEST = """Math.min(...[...document.querySelectorAll('p, td, th, li, dd, span')]
    .map(e => parseFloat(getComputedStyle(e).fontSize)).filter(size => size > 0))"""


@dataclass
class Shown:
    """A finished run and its page in a browser."""

    run: Distilled
    page: Page

    @property
    def pipeline(self) -> Pipeline:
        return PIPELINES[load_recipe(self.run.recipe).pipeline]

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run.report.read_bytes())
        return found

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run.folder / "store" / "runs" / "run-1" / "run.json").read_bytes())
        return found

    def histories(self) -> dict[str, dict[str, Any]]:
        files = (self.run.folder / "store" / "checkpoints").glob("*/*/history.json")
        return {path.parts[-3]: json.loads(path.read_bytes()) for path in files}

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.value(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent.trim())")
        return found


@pytest.fixture(scope="module", params=SHORT)
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    find_chromium()
    folder = tmp_path_factory.mktemp("page")
    recipe = request.param
    architecture, spec = Architecture(name="wrn_16_1"), ImageSpec(channels=1, height=16, width=16, mean=(0.3,), std=(0.3,))
    names = ("0", "1", "2", "3", "4", "five & <b>six</b>", "6", "7", "8", "nine")
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        teacher = Classifier(build_network(architecture, spec, 10), spec, names)
        save_classifier(folder / "teacher", teacher, architecture, Provenance(code_version=code_version()))
        images = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), dtype=np.uint8)
        np.savez(folder / "test.npz", images=images, labels=np.arange(40) % 10)
        patch.setenv("KFP_RUN_ID", "run-1")
        patch.setenv("DISTILLERY_DEVICE", "cpu")
        overrides = {**SHORT[recipe], **MORE}
        run = distill(folder / "teacher", recipe, folder / "run", data=folder / "test.npz", seed=3, overrides=overrides)
    with open_browser(folder) as page:
        page.resize(1400)
        page.open(run.page.as_uri())
        yield Shown(run, page)


def value_at(report: dict[str, Any], path: str) -> float:
    found: Any = report
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return float(found)


def test_the_browser_is_content_and_asks_nobody(shown: Shown) -> None:
    assert shown.page.complaints == []
    asked = {url.partition(":")[0] for url in shown.page.requests if url != shown.run.page.as_uri()}
    assert asked <= {"data"}


def test_every_number_is_the_reports(shown: Shown) -> None:
    report = shown.report
    numbers = shown.page.value("[...document.querySelectorAll('data')].map(e => [e.dataset.path, e.value, e.textContent])")
    paths = {path for path, _, _ in numbers}
    assert {
        "student.accuracy.top1",
        "teacher.accuracy.top1",
        "agreement.rate",
        "student.cost.flops",
        "teacher.cost.latency.0.milliseconds",
    } <= paths
    for path, value, text in numbers:
        assert float(value) == value_at(report, path), path
        if "%" in text:
            assert float(re.match(r"[\d.]+", text)[0]) == pytest.approx(100 * float(value), abs=0.051)  # type: ignore[index]
        if path.endswith(("parameters", "correct")):
            assert int(text.split()[0].replace(",", "")) == float(value)


def test_the_confusion_matrix_is_the_reports(shown: Shown) -> None:
    rows = shown.page.value(
        "[...document.querySelectorAll('.confusion tbody tr')].map(r => [...r.querySelectorAll('td')].map(c => Number(c.textContent)))"
    )
    assert rows == whole_matrix(shown.report["student"]["accuracy"]["confusion"], len(rows))
    assert shown.texts(".confusion tbody th") == list(read_bundle(shown.run.student)[0].class_names)


def test_the_lineage_is_what_lies_on_the_disk(shown: Shown) -> None:
    links = dict(shown.page.value("[...document.querySelectorAll('[data-link]')].map(e => [e.dataset.link, e.textContent])"))
    assert links["Teacher"] == sha256_file(Path(shown.run.teacher, "bundle.json"))
    assert links["Statistics"] == sha256_file(shown.run.statistics)
    if "synthesizer" in shown.pipeline.artifacts:
        assert links["Generator"] == sha256_file(shown.run.synthesizer / "synthesizer.json")
    else:
        assert "Generator" not in links
    assert links["Synthetic set"] == sha256_file(shown.run.set / "manifest.json")
    assert links["Student"] == sha256_file(shown.run.student / "bundle.json")
    assert links["Report"] == sha256_file(shown.run.report)


def test_cost_and_curves_are_the_histories(shown: Shown) -> None:
    histories = shown.histories()
    told = {step for step in shown.pipeline.steps if STEPS[step].heading}
    histories = {step: history for step, history in histories.items() if step in told}
    assert set(histories) == told
    parts: dict[str, float] = {}
    for history in histories.values():
        for seconds in (*(entry["seconds"] for entry in history["rounds"]), history["after"]):
            for name, value in seconds.items():
                parts[name] = parts.get(name, 0.0) + value
    assert {"synthesis", "student", "io", "other"} <= set(parts)
    rows = shown.page.value("[...document.querySelectorAll('#cost table')][0].innerText.split('\\n')")
    told = {row.partition("\t")[0].strip(): row.split("\t")[1] for row in rows[1:] if "\t" in row}
    for name, label in (("synthesis", "making images"), ("student", "training the student"), ("io", "reading and writing")):
        assert float(told[label].split()[0]) == pytest.approx(parts[name], abs=0.051), (name, told)
    charts = set(shown.texts(".charts h3"))
    assert {words.TITLES["moments"], words.TITLES["kd"], "Top-1 accuracy over epochs"} <= charts


def test_configuration_and_command_are_the_runs(shown: Shown) -> None:
    assert yaml.safe_load(shown.texts("#config")[0]) == shown.record["provenance"]["config"]
    command = shown.texts("#command")[0]
    assert command.startswith(f"distillery run {shown.run.recipe} ")
    assert "--seed 3" in command


def test_every_picture_is_drawn(shown: Shown) -> None:
    widths = shown.page.value("Promise.all([...document.images].map(e => e.decode().then(() => e.naturalWidth)))")
    assert widths
    assert all(width > 0 for width in widths)


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "light"), (390, "dark")])
def test_it_fits_the_screen_and_stays_readable(shown: Shown, width: int, scheme: str, tmp_path: Path) -> None:
    shown.page.resize(width, scheme=scheme)
    shown.page.open(shown.run.page.as_uri())
    assert shown.page.value("document.documentElement.scrollWidth") <= width
    smallest = shown.page.value(SMALLEST)
    assert smallest >= 12
    ink, paper = shown.page.value("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (light[0] < light[1]) == (scheme == "light")
    picture = Image.open(shown.page.screenshot(tmp_path / f"{width}-{scheme}.png"))
    assert picture.width in (width, width - 15)  # without a scroll bar
    assert picture.height > 3000
    assert len(picture.convert("RGB").getcolors(2**24) or []) > 100
    assert shown.page.complaints == []


def test_print_shows_the_folded_configuration(shown: Shown) -> None:
    shown.page.resize(1000, media="print")
    assert shown.page.value("document.querySelector('#config').getBoundingClientRect().height") > 500
