"""A whole online loop on toy networks, for tests of what it books and of what it is fed."""

from typing import Any

import torch

from distillery.data.manifest import SetHeader
from distillery.engine.fit import StudentTrainer
from distillery.engine.online import OnlineConfig, OnlineDistillation
from distillery.engine.recorded import Ground, RecordedPool
from distillery.engine.sampled import Room, SampledPool
from distillery.engine.selection import Score, Selection
from distillery.engine.session import Session
from distillery.provenance import Provenance
from distillery.storage import FolderStore
from distillery.students.plan import StageConfig
from distillery.types import Classifier
from fakes import CPU, SPEC, FakeSynthesizer, plain_student

HEADER = SetHeader(shape=SPEC.shape, num_classes=4, teacher_sha256="a" * 64, provenance=Provenance(code_version="test"))
STAGE = StageConfig(objectives=[{"name": "kd", "temperature": 4}], epochs=4, steps_per_epoch=2, batch=16)


def loop_of(
    teacher: Classifier,
    store: FolderStore,
    session: Session,
    feed: str = "pool",
    rounds: int = 6,
    closing: int = 0,
    holdout: float = 0.25,
    turns: int = 1,
    record: int = 0,
    **fake: Any,
) -> OnlineDistillation:
    trainer = StudentTrainer((STAGE,), teacher, plain_student(), CPU, seed=3)
    ground = Ground(store, HEADER, teacher, holdout, seed=3)
    pool = SampledPool(ground, Room(session.checkpoints.store, record)) if record else RecordedPool(ground)
    config = OnlineConfig(
        rounds=rounds, turns_per_round=turns, student_steps_per_turn=2, closing_rounds=closing, feed=feed, record=record or "all"
    )
    synthesizer = FakeSynthesizer(teacher, **{"warmup": 2, **fake})

    def judge(student: Classifier, start: int) -> Score:
        images, answers = pool.held_out.images[start:], pool.held_out_answers()[start:].argmax(1)
        with torch.no_grad():
            agreed = student(images.float() / 255).argmax(1) == answers
        return Score(len(images), int(agreed.sum()))

    return OnlineDistillation(config, synthesizer, trainer, pool, Selection(session.checkpoints.store, judge), session)
