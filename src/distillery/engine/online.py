"""Rounds of a synthesizer that plays against a student, and the student's training between them."""

import logging
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from distillery.config import Config
from distillery.data.pool import ImagePool
from distillery.engine.feeds import FreshFeed, PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.engine.recorded import RecordedPool
from distillery.engine.selection import Selection
from distillery.engine.session import Session
from distillery.engine.terms import round_numbers
from distillery.errors import ConfigError
from distillery.synthesis.protocol import Synthesizer, Turn

logger = logging.getLogger(__name__)


class OnlineConfig(Config):
    """How rounds and student steps alternate.

    Attributes:
        rounds: of the synthesizer.
        student_steps_per_round: once the synthesizer is ready.
        closing_rounds: rounds after the synthesizer's last, in which the student alone trains, on all images; `feed: pool` only.
        feed: what the student sees: all images so far, this round's, or new ones each step. The set holds these and no others; of
            images that the student is not shown only the share that is held out is kept.
    """

    rounds: int = Field(ge=1)
    student_steps_per_round: int = Field(ge=1)
    closing_rounds: int = Field(default=0, ge=0)
    feed: Literal["pool", "round", "fresh"] = "pool"

    @model_validator(mode="after")
    def _images_to_close_with(self) -> Self:
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
        pool: takes the images of each round.
        selection: judges the student whenever an epoch ends, keeps the best ones and snapshots.
        session: checkpoints hold all of these, the pool by the names of its shards.
    """

    config: OnlineConfig
    synthesizer: Synthesizer
    trainer: StudentTrainer
    pool: RecordedPool
    selection: Selection
    session: Session

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
        total = self.config.total
        self.trainer.tick = lambda: self.session.tick("online: round", f"student {self.trainer.step_of()}", total)
        while self.session.done < total:
            self.session.note("online: round", total, self._round() if self.session.done < self.config.rounds else self._close())
            if self.session.is_due(total):
                self.session.save(self._state())
                self.selection.sweep()
        self._check_ready()
        self._check_plan()
        with self.session.clock.part("check"):
            self.selection.conclude(self.trainer.epochs, self.trainer.student)
        made = self.session.history[self.config.rounds - 1]
        return {name: value for name, value in made.items() if name.startswith("synthesis/")} | self.session.history[-1]

    def _round(self) -> dict[str, float]:
        """The synthesizer learns, its images join the pool, the student trains."""
        clock = self.session.clock
        with clock.part("synthesis"):
            learned = self.synthesizer.advance(self.trainer.student)
            numbers = round_numbers(learned, self.session.history)
            numbers |= self._collect(learned)
        return numbers | self._play_student() if learned.ready else numbers

    def _close(self) -> dict[str, float]:
        """A round without new images."""
        self._check_ready()
        return self._play_student()

    def _play_student(self) -> dict[str, float]:
        """The student's part of a round."""
        clock, before = self.session.clock, self.trainer.epochs
        with clock.part("student"):
            numbers = self._train()
        if self.trainer.epochs > before:
            with clock.part("check"):
                scores = self.selection.look(self.trainer.epochs, self.trainer.student)
            numbers |= {f"holdout/{name}": value for name, value in scores.items()}
        return numbers

    def _collect(self, learned: Turn) -> dict[str, float]:
        """Add the round's images, or ask for some where the method makes none as it learns."""
        batch = learned.batch
        if batch is None and learned.ready:
            stage = self.trainer.stages[self.trainer.position.stage]
            batch = self.synthesizer.synthesize(stage.batch, student=self.trainer.student)
        if batch is None or not len(batch):
            return {}
        shown = {"pool": True, "round": learned.ready, "fresh": False}[self.config.feed]
        added = self.pool.add(batch, shown)
        return {f"synthesis/{name}": value for name, value in added.items()}

    def _train(self) -> dict[str, float]:
        """The student's steps of a round; images that are new each step join the pool once it has seen them."""
        config, added = self.config, {}
        if config.feed == "fresh":
            seen = ImagePool(self.pool.train.spec, self.pool.train.device)
            feed = FreshFeed(self.synthesizer, self.trainer.student, self.session.clock, seen)
            terms = self.trainer.train(config.student_steps_per_round, feed)
            added = self.pool.add_seen(seen)
        else:
            pool = self.pool.train if config.feed == "pool" else self.pool.last_round
            terms = self.trainer.train(config.student_steps_per_round, PoolFeed(pool))
        numbers = {f"student/{name}": value for name, value in terms.items()}
        return numbers | {f"synthesis/{name}": value for name, value in added.items()}

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
        self.pool.load_state_dict(state["pool"])
        self.selection.load_state_dict(state["selection"])
