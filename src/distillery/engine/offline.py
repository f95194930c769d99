"""Loops that train one thing at a time: a synthesizer without a student, or a student on a fixed source of images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.engine.feeds import Feed
from distillery.engine.fit import StudentTrainer
from distillery.engine.selection import Selection
from distillery.engine.session import Session
from distillery.engine.terms import TurnWatch
from distillery.synthesis.protocol import Synthesizer


def train_synthesizer(synthesizer: Synthesizer, rounds: int, session: Session, turns_per_round: int = 1) -> dict[str, float]:
    """Let a synthesizer learn for a number of rounds; what a killed run had finished is not done again.

    Args:
        synthesizer: fresh; brought to the last checkpoint's state where there is one.
        rounds: how many in all.
        session: checkpoints hold `synthesizer`.
        turns_per_round: of each round; what is booked is a round.

    Returns:
        The terms of the last round.

    Raises:
        ConfigError: a term went bad; names the round and the term.
    """
    state = session.resume()
    if state is not None:
        synthesizer.load_state_dict(state["synthesizer"])
    while session.done < rounds:
        watch = TurnWatch(session.done + 1, turns_per_round)
        with session.clock.part("synthesis"):
            for turn in range(turns_per_round):
                watch.add(synthesizer.advance(None))
                if turns_per_round > 1:
                    session.tick("synthesizer: round", f"turn {turn + 1}/{turns_per_round}", rounds)
            numbers = watch.read(session.history)
        session.note("synthesizer: round", rounds, numbers)
        if session.is_due(rounds):
            session.save({"synthesizer": synthesizer.state_dict()})
    return session.history[-1]


@dataclass
class StudentFit:
    """Training a student on a set, a live synthesizer or real data, whichever the feed gives.

    Attributes:
        trainer: holds the student; its plan ends the training.
        feed: where batches come from.
        selection: judges the student after each epoch, keeps the best ones and snapshots.
        session: checkpoints hold `trainer` and `selection`, one an epoch.
        synthesizer: whose random stream the feed draws from, so that checkpoints hold it too; None where images lie ready.
    """

    trainer: StudentTrainer
    feed: Feed
    selection: Selection
    session: Session
    synthesizer: Synthesizer | None = None

    def run(self) -> dict[str, float]:
        """Train to the end of the plan; what a killed run had finished is not done again.

        Returns:
            The numbers of the last epoch.

        Raises:
            ConfigError: a term or a weight went bad; names the step and the term.
        """
        trainer, session = self.trainer, self.session
        total = sum(stage.epochs for stage in trainer.stages)
        state = session.resume()
        if state is not None:
            self._load(state)
        trainer.tick = lambda: session.tick("student: epoch", trainer.step_of(), total)
        while session.done < total:
            with session.clock.part("student"):
                numbers = {f"student/{name}": value for name, value in trainer.train(trainer.steps_left, self.feed).items()}
            with session.clock.part("check"):
                scores = self.selection.look(trainer.epochs, trainer.student)
            session.note("student: epoch", total, {**numbers, **{f"holdout/{name}": value for name, value in scores.items()}})
            if session.is_due(total):
                session.save(self._state())
                self.selection.sweep()
        with session.clock.part("check"):
            self.selection.conclude(trainer.epochs, trainer.student)
        return session.history[-1]

    def _state(self) -> dict[str, Any]:
        live = {"synthesizer": self.synthesizer.state_dict()} if self.synthesizer else {}
        return {"trainer": self.trainer.state_dict(), "selection": self.selection.state_dict(), **live}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.trainer.load_state_dict(state["trainer"])
        self.selection.load_state_dict(state["selection"])
        if self.synthesizer:
            self.synthesizer.load_state_dict(state["synthesizer"])
