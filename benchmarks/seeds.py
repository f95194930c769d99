"""`make seeds`: every method three times on scikit-learn's digits; split and teacher are fixed, the last epoch counts.

Each run has one thread, because the number of threads changes the order of sums and with it every digit of the result; two runs go on
at a time. Prints correct/total of each run and, last, one line a method. Exits 1 where a bar is missed.
"""

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree

import torch

from distillery import Distilled, distill
from distillery.data.pool import dequantize, quantize
from distillery.evaluation.report import load_report
from distillery.methods.catalog import METHODS
from distillery.recipes.sections import MaterializeSection
from distillery.runtime import resolve_runtime
from distillery.seeding import stream
from distillery.synthesis.bundle import load_synthesizer
from distillery.workbench.assembly import PlannedMethod, open_teacher
from distillery_kfp.pipelines.demo.digits import TeacherTraining, make_teacher

RECIPES = {name: f"{name}/digits" for name in METHODS}
SEEDS = (0, 1, 2)
TEACHER_BAR, SHARE_BAR = 0.99, 1 / 8
RAW_IMAGES = 10_000
AT_A_TIME = 2


@dataclass(frozen=True)
class Bars:
    """What the runs of a recipe must reach.

    Attributes:
        mean: share of the test images that the students name right, over the seeds.
        least: of the worst seed.
        labels: share of the raw images that the teacher names as they were asked for, of each run whose images are made before the student.
    """

    mean: float = 0.99
    least: float = 0.98
    labels: float = 0.9


BARS = {"adaptive_deep_inversion/digits": Bars(0.98, 0.97), "deep_inversion/digits": Bars(0.98, 0.975)}
"""Recipes whose bars are others; their pages say why."""


def bars_of(method: str) -> Bars:
    """The bars of a method's recipe."""
    return BARS.get(RECIPES[method], Bars())


@dataclass(frozen=True)
class Score:
    """A student on the test images."""

    correct: int
    total: int
    share: float

    @property
    def rate(self) -> float:
        """Correct / total."""
        return self.correct / self.total


def main() -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".seeds"), help="emptied first")
    options = parser.parse_args()
    folder = options.folder.absolute()
    rmtree(folder, ignore_errors=True)
    missed = [] if teach(folder) else ["teacher"]
    scores: dict[str, list[Score]] = {method: [] for method in RECIPES}
    with ProcessPoolExecutor(AT_A_TIME, get_context("spawn"), prepare_worker) as pool:
        for method, done in [(method, pool.submit(run_once, method, folder, seed)) for method in RECIPES for seed in SEEDS]:
            score, said, failed = done.result()
            print(*said, sep="\n", flush=True)
            scores[method].append(score)
            missed += failed
    for method, found in scores.items():
        missed += judge(method, found)
    for name in missed:
        print(f"missed: {name}", file=sys.stderr)
    for method, found in scores.items():
        print(summary(method, found))
    return 1 if missed else 0


def prepare_worker() -> None:
    """One thread, and no word of the steps but warnings."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")


def run_once(method: str, folder: Path, seed: int) -> tuple[Score, list[str], list[str]]:
    """One run of a method: its score, what to print, and the bars that it missed by itself."""
    began = time.monotonic()
    run = distill(folder / "teacher", RECIPES[method], folder / f"{method}-{seed}", data=folder / "test.npz", seed=seed)
    score = read_score(run)
    seconds = time.monotonic() - began
    said = [f"{method} seed {seed}: {score.correct}/{score.total} in {seconds:.0f} s, 1/{1 / score.share:.1f} of the parameters"]
    missed = [f"{method} seed {seed} parameters"] if score.share > SHARE_BAR else []
    row = METHODS[method]
    if row.coupling == "offline":
        drawn = run.steps["materialize"].metrics
        raw, images = (drawn["asked_agreement"], int(drawn["drawn"])) if row.inverts else (raw_agreement(run), RAW_IMAGES)
        said.append(
            f"{method} seed {seed}: the teacher sees the asked label in {raw:.1%} of {images:,} raw images, "
            f"{drawn['set_agreement']:.1%} of the set"
        )
        missed += [f"{method} seed {seed} raw labels"] if raw < bars_of(method).labels else []
    return score, said, missed


def teach(folder: Path) -> bool:
    """Train the one teacher of all runs; whether it is good enough."""
    made = make_teacher(folder, TeacherTraining(), resolve_runtime(precision="float32", threads=1))
    print(
        f"teacher: {round(made['top1'] * made['images'])}/{made['images']}, {made['parameters']:,} parameters, sha256 {made['sha256'][:12]}"
    )
    return bool(made["top1"] >= TEACHER_BAR)


def read_score(run: Distilled) -> Score:
    """What `evaluate` wrote about the student of the last epoch."""
    report = load_report(run.report)
    scores = report.student.accuracy
    return Score(scores.correct, scores.total, report.student.cost.parameters / report.teacher.cost.parameters)


def raw_agreement(run: Distilled, batch: int = 500) -> float:
    """Share of raw images, labels uniform, that the teacher names as they were asked for; seen in 256 levels, as a stored image is."""
    section = MaterializeSection.parse(run.steps["materialize"].section)
    teacher = open_teacher(section, str(run.teacher))
    plan = PlannedMethod.parse(section.method, section.method_config, run.statistics)
    synthesizer = plan.build(teacher, resolve_runtime(precision="float32"), section.seed)
    synthesizer.load_state_dict(load_synthesizer(run.synthesizer, teacher.sha256).state)
    asked = torch.randint(teacher.classifier.num_classes, (RAW_IMAGES,), generator=stream(section.seed, "seeds", "labels"))
    agreed = 0
    with torch.no_grad():
        for labels in asked.split(batch):
            images = dequantize(quantize(synthesizer.synthesize(len(labels), labels).images))
            agreed += int((teacher.classifier(images).argmax(dim=1) == labels).sum())
    return agreed / RAW_IMAGES


def judge(method: str, scores: list[Score]) -> list[str]:
    """Names of the bars that a method missed."""
    rates, asked = [score.rate for score in scores], bars_of(method)
    bars = {"mean": (sum(rates) / len(rates), asked.mean), "min": (min(rates), asked.least)}
    return [f"{method} {name} {value:.4f} < {bar}" for name, (value, bar) in bars.items() if value < bar]


def summary(method: str, scores: list[Score]) -> str:
    """The one line of a method, in percent."""
    rates = [100 * score.rate for score in scores]
    return f"{method} mean {sum(rates) / len(rates):.1f} min {min(rates):.1f} n {len(rates)}"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")  # the steps would log each epoch
    sys.exit(main())
