"""Turns of a synthesizer that plays against a student, each with the student's steps after it, booked round by round."""

import logging
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from distillery.config import Config
from distillery.data.pool import ImagePool
from distillery.data.start import StartSet
from distillery.engine.feeds import FreshFeed, PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.engine.recorded import RecordedPool
from distillery.engine.selection import Selection
from distillery.engine.session import Session
from distillery.engine.terms import TurnWatch
from distillery.errors import ConfigError
from distillery.synthesis.protocol import Synthesizer, Turn

logger = logging.getLogger(__name__)


class OnlineConfig(Config):
    """How turns and student steps alternate.

    A turn is one `advance` and the student's steps after it. A round is a number of turns and is what is booked: one line of history, one
    checkpoint, one shard.

    Attributes:
        rounds: of the synthesizer.
        turns_per_round: of each round.
        student_steps_per_turn: once the synthesizer is ready.
        closing_rounds: rounds after the synthesizer's last, in which the student alone trains, on all images; `feed: pool` only.
        feed: what the student sees: all images so far, this turn's, or new ones each step. The set holds these and no others; of
            images that the student is not shown only the share that is held out is kept.
        record: what the set keeps of images that pass by only once, which are those of every feed but the pool: all, or a uniform sample of
            so many, the held-out share included.
    """

    rounds: int = Field(ge=1)
    turns_per_round: int = Field(default=1, ge=1)
    student_steps_per_turn: int = Field(ge=1)
    closing_rounds: int = Field(default=0, ge=0)
    feed: Literal["pool", "round", "fresh"] = "pool"
    record: Literal["all"] | Annotated[int, Field(ge=2)] = "all"

    @model_validator(mode="after")
    def _images_to_close_with(self) -> Self:
        if self.record != "all" and self.feed == "pool":
            raise ValueError(f"record = {self.record} keeps a sample, but feed: pool shows all images again and again, so record all")
        if self.closing_rounds and self.feed != "pool":
            raise ValueError(f"{self.closing_rounds} closing rounds bring no images, so feed the pool and not {self.feed!r}, or give 0")
        return self

    @property
    def total(self) -> int:
        """Rounds of either kind."""
        return self.rounds + self.closing_rounds


@dataclass
class OnlineDistillation:
    """One run.

    Attributes:
        config: its length and feed.
        synthesizer: fresh.
        trainer: holds the student. Its epochs count student steps, so its schedule stands still during warm-up.
        pool: takes the images of each turn.
        selection: judges the student whenever an epoch ends, keeps the best ones and snapshots.
        session: checkpoints hold all of these, the pool by the names of its shards.
        start: a set made before, with which the pool begins; None for an empty one.
    """

    config: OnlineConfig
    synthesizer: Synthesizer
    trainer: StudentTrainer
    pool: RecordedPool
    selection: Selection
    session: Session
    start: StartSet | None = None

    def run(self) -> dict[str, float]:
        """Play all rounds; those that a killed run had finished are not played again.

        Returns:
            The synthesizer's numbers of its last round, the student's of the very last one.

        Raises:
            ConfigError: a term went bad (names round or step and the term), or no round was ever ready for the student.
        """
        state = self.session.resume()
        if state is not None:
            self._load(state)
        elif self.start is not None:
            with self.session.clock.part("io"):
                self.pool.begin(self.start)
        total = self.config.total
        self.trainer.tick = lambda: self.session.tick("online: round", f"student {self.trainer.step_of()}", total)
        while self.session.done < total:
            self.session.note("online: round", total, self._round())
            if self.session.is_due(total):
                self.session.save(self._state(), self.pool.lists())
                self.selection.sweep()
        self._check_ready()
        self._check_plan()
        self.pool.conclude()
        with self.session.clock.part("check"):
            if self.pool.replaces:
                self.selection.forget_scores()
            self.selection.conclude(self.trainer.epochs, self.trainer.student)
        # closing rounds have no synthesizer, and would leave its numbers out
        made = self.session.history[self.config.rounds - 1]
        return {name: value for name, value in made.items() if name.startswith("synthesis/")} | self.session.history[-1]

    def _round(self) -> dict[str, float]:
        """The turns of one round; then its images are written and its terms read."""
        clock, trainer, turns = self.session.clock, self.trainer, self.config.turns_per_round
        closing = self.session.done >= self.config.rounds
        if closing:
            self._check_ready()
        before, steps, watch = trainer.epochs, trainer.steps, TurnWatch(self.session.done + 1, turns)
        for turn in range(1, turns + 1):
            if turns > 1:
                self.session.tick("online: round", f"turn {turn}/{turns}", self.config.total)
            if closing or self._learn(watch):
                with clock.part("student"):
                    self._train()
        with clock.part("synthesis"):
            numbers = watch.read(self.session.history)
            numbers |= {} if closing else self.pool.book()
        if trainer.steps > steps:
            with clock.part("student"):
                numbers |= {f"student/{name}": value for name, value in trainer.read().items()}
        return numbers | self._look() if trainer.epochs > before else numbers

    def _learn(self, watch: TurnWatch) -> bool:
        """The synthesizer's part of a turn, its images added to the pool; whether the student may train."""
        with self.session.clock.part("synthesis"):
            # before the student's steps: these images were made against the student as it still is
            learned = self.synthesizer.advance(self.trainer.student)
            watch.add(learned)
            self._collect(learned)
        return learned.ready

    def _collect(self, learned: Turn) -> None:
        """Add the turn's images, or ask for some where the method makes none as it learns."""
        batch = learned.batch
        if batch is None and learned.ready:
            stage = self.trainer.stages[self.trainer.position.stage]
            batch = self.synthesizer.synthesize(stage.batch, student=self.trainer.student)
        if batch is not None and len(batch):
            # `fresh` shows images that are made step by step; those that a method made on its way are only held out
            self.pool.add(batch, {"pool": True, "round": learned.ready, "fresh": False}[self.config.feed])

    def _train(self) -> None:
        """The student's steps of a turn; images that are new each step join the pool once it has seen them."""
        steps = self.config.student_steps_per_turn
        if self.config.feed == "fresh":
            seen = ImagePool(self.pool.train.spec, self.pool.train.device)
            self.trainer.take(steps, FreshFeed(self.synthesizer, self.trainer.student, self.session.clock, seen))
            self.pool.add_seen(seen)
        else:
            self.trainer.take(steps, PoolFeed(self.pool.train if self.config.feed == "pool" else self.pool.last_turn))

    def _look(self) -> dict[str, float]:
        """The student's scores on what is held out, after a round in which an epoch ended."""
        with self.session.clock.part("check"):
            if self.pool.replaces:
                self.selection.forget_scores()
            scores = self.selection.look(self.trainer.epochs, self.trainer.student)
        return {f"holdout/{name}": value for name, value in scores.items()}

    def _check_ready(self) -> None:
        if not self.trainer.steps:
            raise ConfigError(f"rounds = {self.config.rounds} ended before the student could train: give more, or a shorter warm-up.")

    def _check_plan(self) -> None:
        planned = sum(stage.epochs for stage in self.trainer.stages)
        if self.trainer.epochs != planned:
            logger.warning("The student's plan has %d epochs, but the rounds made %d of them.", planned, self.trainer.epochs)

    def _state(self) -> dict[str, Any]:
        return {
            "synthesizer": self.synthesizer.state_dict(),
            "trainer": self.trainer.state_dict(),
            "pool": self.pool.state_dict(),
            "selection": self.selection.state_dict(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.synthesizer.load_state_dict(state["synthesizer"])
        self.trainer.load_state_dict(state["trainer"])
        self.pool.load_state_dict(state["pool"], state)
        self.selection.load_state_dict(state["selection"])
