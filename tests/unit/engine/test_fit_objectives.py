"""Modules that are trained beside the student: they learn, are saved, end with their stage, and never enter the student."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.data.pool import ImagePool
from distillery.engine.checkpoint import Checkpoints
from distillery.engine.feeds import PoolFeed
from distillery.engine.fit import StudentTrainer
from distillery.errors import ConfigError
from distillery.models.bundle import load_classifier, save_classifier
from distillery.models.catalog import build_network
from distillery.provenance import Provenance
from distillery.runtime import Runtime
from distillery.seeding import stream
from distillery.storage import FolderStore
from distillery.students.objective import Seen
from distillery.students.plan import OptimizerConfig, StageConfig
from distillery.types import Classifier
from fakes import CPU, SPEC, TINY, plain_student, quadrants
from toy_objectives import Hint, register

HINT = {"name": "hint", "teacher": "network.blocks.1", "student": "network.3"}
OTHER = {"name": "hint", "teacher": "network.stem", "student": "network.0"}


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def feed() -> PoolFeed:
    pool = ImagePool(SPEC)
    pool.append(*quadrants(40, stream(0, "pool")))
    return PoolFeed(pool)


def stage(*objectives: dict[str, Any], **changes: Any) -> StageConfig:
    return StageConfig(objectives=objectives, epochs=2, steps_per_epoch=3, batch=8, **changes)


def trainer_of(teacher: Classifier, *stages: StageConfig) -> StudentTrainer:
    return StudentTrainer(stages, teacher, plain_student(dropout=0.3), CPU, seed=3)


def state_of(trainer: StudentTrainer) -> dict[str, torch.Tensor]:
    tensors = {**trainer.student.state_dict(), **{f"modules.{name}": value for name, value in trainer._modules.state_dict().items()}}
    return {name: value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize("optimizer", [OptimizerConfig(), OptimizerConfig(name="adam", rate=0.01)])
def test_a_run_with_regressors_resumes_bit_equal_from_disk(teacher: Classifier, tmp_path: Path, optimizer: OptimizerConfig) -> None:
    first = stage(HINT, OTHER, {"name": "kd"}, optimizer=optimizer, clip=0.05)
    plan = (first, stage({"name": "kd"}, HINT, optimizer=optimizer, trains=["network.3", "network.7"]))
    alone = trainer_of(teacher, *plan)
    alone.train(4, feed())
    checkpoints = Checkpoints(FolderStore(tmp_path))
    checkpoints.save(1, alone.state_dict())
    alone.train(1, feed())
    middle, strides = state_of(alone), [parameter.stride() for parameter in alone._trained]
    alone.train(4, feed())

    resumed = trainer_of(teacher, *plan)
    torch.randn(100)  # the global stream stands elsewhere in another process
    found = checkpoints.load()
    assert found is not None
    resumed.load_state_dict(found[1])
    resumed.train(1, feed())
    torch.testing.assert_close(middle, state_of(resumed), rtol=0, atol=0)
    assert "modules.hint2.regressor.1.running_mean" in middle
    assert [parameter.stride() for parameter in resumed._trained] == strides
    for parameter, entry in resumed._optimizer.state.items():
        moment = entry.get("momentum_buffer", entry.get("exp_avg"))
        assert moment.stride() == parameter.stride()
    resumed.train(4, feed())  # over the end of the first stage
    torch.testing.assert_close(state_of(alone), state_of(resumed), rtol=0, atol=0)


def test_a_regressor_learns_with_the_student_and_ends_with_its_stage(teacher: Classifier) -> None:
    trainer = trainer_of(teacher, stage(HINT), stage(HINT))
    before = state_of(trainer)
    trainer.train(3, feed())
    after = state_of(trainer)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"modules.hint.regressor.0.weight", "modules.hint.regressor.1.running_var", "network.3.weight"} <= moved
    assert "network.7.weight" not in moved, "no term reaches the head"
    first = trainer._modules
    trainer.train(4, feed())
    assert trainer.position.stage == 1
    assert trainer._modules is not first
    again = trainer_of(teacher, stage(HINT), stage(HINT))
    again._enter(1)
    drawn = again._modules.state_dict()
    assert not torch.equal(before["modules.hint.regressor.0.weight"], drawn["hint.regressor.0.weight"]), "another stage draws others"


def test_a_regressor_never_enters_the_student_or_its_bundle(teacher: Classifier, tmp_path: Path) -> None:
    expected = set(plain_student().state_dict())
    trainer = trainer_of(teacher, stage(HINT))
    trainer.train(1, feed())
    assert set(trainer.student.state_dict()) == expected
    twin = CPU.place(Classifier(build_network(TINY, SPEC, 4), SPEC, teacher.class_names))
    trainer = StudentTrainer((stage({**HINT, "student": "network.blocks.1"}),), teacher, twin, CPU, 0)
    trainer.train(1, feed())
    save_classifier(tmp_path / "student", trainer.student, TINY, Provenance(code_version="test"))
    assert set(load_classifier(tmp_path / "student").state_dict()) == set(twin.state_dict())


def test_every_term_is_told_and_the_student_is_left_alone_between_trainings(teacher: Classifier) -> None:
    trainer = trainer_of(teacher, stage({"name": "kd", "hard": 0.5}, HINT, OTHER))
    numbers = trainer.train(2, feed())
    assert set(numbers) == {"kd", "ce", "hint1.hint", "hint2.hint", "rate"}
    assert not any(module.training for module in trainer.student.modules())
    assert all(parameter.grad is None for parameter in trainer._trained)


def test_terms_are_made_in_full_precision_of_what_was_seen_in_bfloat16(teacher: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []
    terms = Hint.terms

    def look(self: Hint, seen: Seen) -> dict[str, torch.Tensor]:
        found.append((torch.is_autocast_enabled("cpu"), seen.student_logits.dtype, *(part.dtype for part in seen.student.values())))
        found.append(bool((seen.student_logits == seen.student_logits.bfloat16()).all()))
        return terms(self, seen)

    monkeypatch.setattr(Hint, "terms", look)
    runtime = Runtime(torch.device("cpu"), "bfloat16", 1)
    StudentTrainer((stage(HINT),), teacher, plain_student(), runtime, 0).train(1, feed())
    assert found == [(False, torch.float32, torch.float32), True]


def test_a_regressor_that_breaks_is_seen(teacher: Classifier) -> None:
    trainer = trainer_of(teacher, stage(HINT))
    with torch.no_grad():
        trainer._modules["hint"]["regressor"][0].bias.fill_(1e12)  # behind the BatchNorm no term feels it
    with pytest.raises(ConfigError, match="term 'weights'"):
        trainer.train(1, feed())


def test_a_stage_of_features_alone_trains_what_they_reach(teacher: Classifier) -> None:
    trainer = trainer_of(teacher, stage(HINT, trains="network.3"))
    before = state_of(trainer)
    trainer.train(2, feed())
    after = state_of(trainer)
    moved = {name for name in before if not torch.equal(before[name], after[name]) and not name.startswith("modules.")}
    assert moved == {"network.3.weight", "network.3.bias"}
