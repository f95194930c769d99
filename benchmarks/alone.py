"""What ours does alone: filling a set, and rounds while the pool grows."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from contest import SEED, Scene
from distillery import distill
from distillery.data.manifest import SetHeader
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.materialize import Materializer, SetConfig
from distillery.engine.progress import Progress
from distillery.engine.session import Session
from distillery.methods.ls_gdfd import LSGDFD, LSGDFDConfig
from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.seeding import seeded
from distillery.storage import FolderStore
from distillery.synthesis.protocol import Ingredients
from distillery.tracking.history import read_history
from distillery.types import Classifier, ImageSpec
from measure import middle, rounded, timed

GROWING = "fast_dfkd/cifar10-laptop"
SMALL = Architecture(name="wrn_10_1", arguments={"base_width": 8})
SIDE = 16
GROWTH_BATCH = 256
EDGE = 20
"""Rounds at each end of a growing run whose median is compared."""


def materialize(scene: Scene, images: int) -> dict[str, Any]:
    """Images a second of the step that fills a set: drawn by LS-GDFD's generator, labelled by the teacher, written and published.

    Args:
        scene: its teacher labels.
        images: raw ones to draw.
    """
    teacher = scene.runtime.place(scene.teacher)
    synthesizer = LSGDFD(LSGDFDConfig(), Ingredients(teacher, scene.runtime, SEED, scene.moments))
    config = SetConfig(size=images, max_oversampling=1.0, holdout=0.0)
    ours = Provenance(code_version=code_version())
    header = SetHeader(shape=teacher.spec.shape, num_classes=teacher.num_classes, teacher_sha256="0" * 64, provenance=ours)
    synthesizer.synthesize(config.batch)
    drawn: list[float] = []
    for number in range(3):
        store = FolderStore(scene.folder / f"set-{number}")
        materializer = Materializer(config, synthesizer, teacher, SEED)
        with Progress(scene.folder / "progress", "materialize") as progress, timed(scene.runtime.device) as lap:
            materializer.run(store.below("set"), header, Session(Checkpoints(store.below("checkpoints")), progress))
        drawn.append(materializer.drawn / lap.seconds)
    return {"images": images, "n": len(drawn), "samples": rounded(drawn, 1), "images_per_second": round(middle(drawn), 1)}


def grow(rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds of each round of an online run as its pool grows, on networks so small that everything but the networks shows.

    Every round makes a batch, appends a shard, takes two student steps and writes a checkpoint; each second round ends an epoch and
    scores the student on all held-out images. That check grows with them, so it stands apart.

    Args:
        rounds: of the run.
        folder: for the run.
    """
    spec = ImageSpec(channels=3, height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    with seeded(SEED, "growth"):
        teacher = Classifier(build_network(SMALL, spec, 10), spec, tuple(map(str, range(10)))).freeze()
    save_classifier(folder / "small-teacher", teacher, SMALL, Provenance(code_version=code_version()))
    changes = {
        "expects": {"height": SIDE, "width": SIDE},
        "synthesis.rounds": rounds,
        "synthesis.checkpoint_every": 1,
        "synthesis.student_steps_per_turn": 2,
        "synthesis.closing_rounds": 0,
        "synthesis.config.batch": GROWTH_BATCH,
        "synthesis.config.steps": 1,
        "synthesis.config.warmup": 0,
        "synthesis.config.generator.width": 8,
        "student.keep_epochs": 0,
        "student.architecture": SMALL.to_json(),
        "student.stages.0.epochs": rounds // 2,
        "student.stages.0.steps_per_epoch": 4,
        "evaluation.latency": False,
    }
    began = time.monotonic()
    with _one_thread():
        run = distill(folder / "small-teacher", GROWING, folder / "growing", overrides=changes)
    seconds = time.monotonic() - began
    (history,) = (run.folder / "store" / "checkpoints" / "distill_online").glob("*/history.json")
    laps = [entry.seconds for entry in read_history(FolderStore(history.parent)).rounds]
    totals = [sum(lap.values()) - lap.get("check", 0.0) for lap in laps]
    edge = min(EDGE, rounds // 2)
    parts = sorted({name for lap in laps for name in lap})

    def ends(values: list[float]) -> dict[str, float]:
        # the first round loads kernels
        return {"first": round(middle(values[1 : edge + 1]), 4), "last": round(middle(values[-edge:]), 4)}

    return {
        "rounds": rounds,
        "images": rounds * GROWTH_BATCH,
        "edge": edge,
        **ends(totals),
        "parts": {part: ends([lap.get(part, 0.0) for lap in laps]) for part in parts},
        "samples": rounded(totals, 4),
        "run_seconds": round(seconds, 1),
        "threads": 1,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Steady times: networks this small gain nothing from a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
