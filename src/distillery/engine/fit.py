"""Training a student, step by step; the same for a set, a live synthesizer and real data."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distillery.data.augment import augment
from distillery.data.pool import ImagePool
from distillery.engine.feeds import Feed, MixedFeed
from distillery.engine.terms import TermWatch, bad_term
from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.numerics import full_precision, is_bad
from distillery.optim.restore import restore_strides
from distillery.optim.schedules import ScheduleProgress, rate_at
from distillery.runtime import Runtime
from distillery.seeding import derive_seed, seeded, stream
from distillery.students.plan import StageConfig, build_optimizer, select_trained
from distillery.students.stage import StageObjectives
from distillery.types import Batch, Classifier

TICK_STEPS = 16
"""Steps between two words to whoever watches: seldom enough to cost nothing, often enough for slow steps."""


def untold() -> None:
    """Tell nobody."""


class Position(NamedTuple):
    """Where a plan stands after some steps: the stage, the epoch within it, and the step within that."""

    stage: int
    epoch: int
    step: int


class StudentTrainer:
    """A student on its way through a plan.

    Everything is a function of the steps taken: stage, epoch and learning rate. Between two calls of `train` the student is in eval mode
    without gradients, and nothing here touches it.

    Args:
        stages: sized: each with `steps_per_epoch` above 0.
        teacher: frozen, on the runtime's device.
        student: placed on the runtime's device.
        runtime: device and precision.
        seed: the run's.

    Attributes:
        ood: images of another domain, of which stages with an `ood_share` mix some into each batch; None where there are none.
    """

    def __init__(self, stages: tuple[StageConfig, ...], teacher: Classifier, student: Classifier, runtime: Runtime, seed: int) -> None:
        for number, stage in enumerate(stages):
            if not stage.steps_per_epoch:
                raise ConfigError(f"stages.{number}.steps_per_epoch = 0 needs a set of fixed size: give 1 or more where images never end.")
        assert not teacher.training, "the teacher must be frozen"
        self.stages = stages
        self.teacher = teacher
        self.student = student.eval()
        self.runtime = runtime
        self.steps = 0
        self.tick: Callable[[], None] = untold
        self.ood: ImagePool | None = None
        self._seed = seed
        self._order = stream(seed, "student", "order")
        self._augment = stream(seed, "student", "augment")
        self._ood = stream(seed, "student", "ood")
        self._watch = TermWatch("the student", 0)
        self._enter(0)

    @property
    def epochs(self) -> int:
        """Finished epochs, over all stages."""
        position = self.position
        return sum(stage.epochs for stage in self.stages[: position.stage]) + position.epoch

    @property
    def steps_left(self) -> int:
        """Steps to the end of the present epoch."""
        position = self.position
        return self.stages[position.stage].steps_per_epoch - position.step

    @property
    def position(self) -> Position:
        """Stage, epoch and step; past the plan's end the last stage goes on, at the end of its schedule."""
        steps = self.steps
        for index, stage in enumerate(self.stages):
            length = stage.epochs * stage.steps_per_epoch
            if steps < length or index == len(self.stages) - 1:
                return Position(index, *divmod(steps, stage.steps_per_epoch))
            steps -= length
        raise AssertionError("a plan without stages")

    def train(self, steps: int, feed: Feed) -> dict[str, float]:
        """Take some steps; an epoch's or a stage's end within them is passed on the way.

        Args:
            steps: how many.
            feed: where the batches come from.

        Returns:
            Mean of each term over these steps, and `rate`, the last learning rate; of the last stage where a stage ended.

        Raises:
            ConfigError: a term or a weight went bad; names the step and the term.
        """
        self.take(steps, feed)
        return self.read()

    def take(self, steps: int, feed: Feed) -> None:
        """As `train`, without a look at what came of it: the device is not waited for until `read`, but where a stage ends.

        Raises:
            ConfigError: a term of a stage that has ended went bad.
        """
        while steps > 0:
            stage = self.position.stage
            if stage != self._stage:
                # the terms of the next stage have other names; what went bad in this one is told first
                self._watch.read()
                self._enter(stage)
            piece = min(steps, self.steps_left)
            self._train_piece(piece, feed, self._watch)
            steps -= piece

    def read(self) -> dict[str, float]:
        """What `train` returns, of all steps that were taken since it was read last.

        Raises:
            ConfigError: a term or a weight went bad; names the step and the term.
        """
        numbers = self._watch.read()
        self._watch = TermWatch("the student", self.steps)
        self._check_weights()
        return {**numbers, "rate": self._optimizer.param_groups[0]["lr"]}

    def step_of(self) -> str:
        """The step just taken within its epoch, in words."""
        position = self.position
        length = self.stages[position.stage].steps_per_epoch
        return f"step {position.step or length}/{length}"

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "student": self.student.state_dict(),
            "modules": self._modules.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
            "stage": self._stage,
            "order": self._order.get_state(),
            "augment": self._augment.get_state(),
            "ood": self._ood.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of an equal plan."""
        self.student.load_state_dict(state["student"])
        self.steps = int(state["steps"])
        self._enter(int(state["stage"]))
        # after `_enter`, which makes this stage's modules and an optimizer of their parameters
        self._modules.load_state_dict(state["modules"])
        self._optimizer.load_state_dict(state["optimizer"])
        restore_strides(self._optimizer)
        self._order.set_state(state["order"])
        self._augment.set_state(state["augment"])
        self._ood.set_state(state["ood"])

    def _enter(self, stage: int) -> None:
        """Begin a stage with an optimizer, objectives and modules of its own."""
        self._stage = stage
        self._watch = TermWatch("the student", self.steps)
        config = self.stages[stage]
        self._objectives = StageObjectives(config, self.teacher, self.student)
        modules = self._objectives.build_modules(self._seed, "student", "objectives", stage)
        # drawn before they are moved: the same on every device
        self._modules = self.runtime.place(modules).train()
        self._trained = [*select_trained(self.student, config.trains), *self._modules.parameters()]
        self._optimizer = build_optimizer(config.optimizer, self._trained)
        self.student.eval()

    def _train_piece(self, steps: int, feed: Feed, watch: TermWatch) -> None:
        """Steps within one epoch."""
        stage = self.stages[self._stage]
        select_trained(self.student, stage.trains)
        # drawn by name and step, dropout needs no state of its own in a checkpoint
        with seeded(self._seed, "student", "dropout", self.steps):
            # `seeded` is of the CPU's generator; dropout on CUDA draws from the device's
            if self.runtime.device.type == "cuda":
                torch.cuda.manual_seed(derive_seed(self._seed, "student", "dropout", self.steps))
            for batch in self._mixed(feed, stage).batches(stage.batch, steps, self._order):
                watch.add(*self._step(batch, stage))
                self.steps += 1
                if self.steps % TICK_STEPS == 0:
                    self.tick()
        self.student.eval()

    def _mixed(self, feed: Feed, stage: StageConfig) -> Feed:
        if not stage.ood_share:
            return feed
        if self.ood is None:
            raise ConfigError(
                f"A stage of the student mixes ood_share = {stage.ood_share} images of another domain into its batches and is given none: "
                f"give some as {spoken('synth_ood_uri')}, or set ood_share to 0."
            )
        return MixedFeed(feed, self.ood, stage.ood_share, self._ood)

    def _step(self, batch: Batch, stage: StageConfig) -> tuple[tuple[str, ...], Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(stage.schedule, stage.optimizer.rate, self._progress())
        # the teacher answers the very view that the student gets: its answer to another crop would teach a difference that is not there
        images = augment(batch.images.to(self.runtime.device), stage.augment, self._augment)
        images = self.student.arrange(images)
        with self.runtime.autocast():
            seen = self._objectives.see(images, batch.labels)
        terms = self._objectives.terms(seen)  # not under autocast: products of features lose what they compare in bfloat16
        values = torch.stack([full_precision(term) for term in terms.values()])
        values.sum().backward()
        # after all objectives are added up: clipped each by itself, their weights would mean nothing
        if stage.clip:
            nn.utils.clip_grad_norm_(self._trained, stage.clip)
        self._optimizer.step()
        # to none: between two steps nothing is left on the student for a synthesizer to find
        self._optimizer.zero_grad(set_to_none=True)
        return tuple(terms), values.detach()

    def _progress(self) -> ScheduleProgress:
        """How far the schedule is, in its own unit."""
        stage, position = self.stages[self._stage], self.position
        if stage.schedule.by == "epoch":
            return ScheduleProgress(position.epoch, stage.epochs)
        return ScheduleProgress(position.epoch * stage.steps_per_epoch + position.step, stage.epochs * stage.steps_per_epoch)

    def _check_weights(self) -> None:
        """The last step's damage shows in no term: look at the weights and buffers themselves."""
        weights = (*self.student.state_dict().values(), *self._modules.state_dict().values())
        values = [value for value in weights if value.is_floating_point()]
        # the largest entry of each, NaN where one is: an L2 norm would call many small weights too large
        largest = torch.stack(torch._foreach_norm(values, float("inf")))
        if bool(is_bad(largest.float()).any()):
            raise bad_term("the student", "weights", f"at step {self.steps - 1}")
