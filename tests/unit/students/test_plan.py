"""Plans: parsed down to the objective, scheduled by formula, hashed by value."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from distillery.config import Config
from distillery.errors import ConfigError
from distillery.optim.schedules import ScheduleConfig, ScheduleProgress, rate_at
from distillery.plain_yaml import read_yaml
from distillery.seeding import stream
from distillery.students.kd import KD, KDConfig
from distillery.students.objective import Seen
from distillery.students.plan import OptimizerConfig, StageConfig, StudentConfig, build_optimizer, select_trained
from distillery.types import Classifier
from fakes import CLASSES, SPEC, plain_student


def test_objective_is_parsed_so_that_equal_plans_hash_equal() -> None:
    one = StageConfig.parse({"objectives": [{"name": "kd", "temperature": 4}]})
    other = StageConfig.parse({"objectives": [{"name": "kd", "temperature": 4.0, "soft": 1}]})
    assert one.objectives == ({"name": "kd", "temperature": 4.0, "soft": 1.0, "hard": 0.0},)
    assert one.digest() == other.digest()
    assert StageConfig().objectives[0]["temperature"] == 20.0


def test_the_one_objective_of_older_documents_is_a_list_of_it() -> None:
    old = StageConfig.parse({"objective": {"name": "kd", "temperature": 4}})
    assert old == StageConfig.parse({"objectives": [{"name": "kd", "temperature": 4}]})
    assert StageConfig.parse(old.to_json()) == old
    with pytest.raises(ConfigError, match="both given: write objectives alone"):
        StageConfig.parse({"objective": {"name": "kd"}, "objectives": [{"name": "kd"}]})
    with pytest.raises(ConfigError, match="at least one objective"):
        StageConfig.parse({"objectives": []})


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        ({"name": "kdd"}, "no student objective 'kdd'.* did you mean 'kd'[?]$"),
        ({"name": "kd", "temprature": 2}, "did you mean 'temperature'"),
        (
            {"name": "kd", "soft": 0},
            "^stages.0.objectives.0 is not allowed: soft and hard are both 0: one of them must be above 0.$",
        ),
        (
            {"name": "kd", "soft": 0, "hard": 1, "temperature": 4},
            "temperature = 4.0 has no effect where soft is 0: leave it out",
        ),
        ({}, "no student objective ''"),
    ],
)
def test_a_wrong_objective_is_one_sentence(objective: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        StudentConfig.parse({"architecture": {"name": "resnet8"}, "stages": [{"objectives": [objective]}]})


def test_a_plan_needs_a_stage_and_counts_its_epochs() -> None:
    with pytest.raises(ConfigError, match="at least one stage"):
        StudentConfig.parse({"architecture": {"name": "resnet8"}, "stages": []})
    assert StudentConfig.parse({"architecture": {"name": "resnet8"}, "stages": [{"epochs": 2}, {"epochs": 3}]}).epochs == 5


def test_zero_steps_is_one_pass() -> None:
    assert StageConfig(batch=16).sized(100).steps_per_epoch == 6
    assert StageConfig(batch=16).sized(5).steps_per_epoch == 1
    assert StageConfig(batch=16, steps_per_epoch=9).sized(100).steps_per_epoch == 9


def test_cosine_follows_its_formula_and_torch() -> None:
    schedule = ScheduleConfig(name="cosine", minimum=2e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200, eta_min=2e-4)
    for epoch in range(200):
        assert rate_at(schedule, 0.2, ScheduleProgress(epoch, 200)) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()
    assert rate_at(schedule, 0.2, ScheduleProgress(100, 200)) == pytest.approx((0.2 + 2e-4) / 2)
    assert rate_at(schedule, 0.2, ScheduleProgress(500, 200)) == pytest.approx(2e-4)
    assert rate_at(ScheduleConfig(length=10), 1.0, ScheduleProgress(5, 200)) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


def test_step_and_constant() -> None:
    schedule = ScheduleConfig(name="step", milestones=(2, 4), factor=0.1)
    assert [rate_at(schedule, 1.0, ScheduleProgress(epoch, 6)) for epoch in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rate_at(ScheduleConfig(name="constant"), 0.3, ScheduleProgress(99, 100)) == 0.3
    with pytest.raises(ConfigError, match="ascending"):
        ScheduleConfig.parse({"milestones": [4, 2]})


def test_optimizers_are_what_the_config_says_and_not_fused_on_the_cpu() -> None:
    parameters = list(plain_student().parameters())
    sgd = build_optimizer(OptimizerConfig(rate=0.2, momentum=0.8, nesterov=True, weight_decay=0.01), parameters)
    assert isinstance(sgd, torch.optim.SGD)
    assert {name: sgd.defaults[name] for name in ("lr", "momentum", "nesterov", "weight_decay", "fused")} == {
        "lr": 0.2,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.01,
        "fused": False,
    }
    adam = build_optimizer(OptimizerConfig(name="adam", betas=(0.5, 0.99)), parameters)
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.defaults["betas"], adam.defaults["fused"]) == ((0.5, 0.99), False)


@pytest.mark.parametrize(
    ("config", "value", "sentence"),
    [
        (ScheduleConfig, {"milestones": [3]}, "milestones = [3] has no effect with cosine: leave it out, or give its default []"),
        (ScheduleConfig, {"name": "constant", "minimum": 0.1}, "minimum = 0.1 has no effect with constant: leave it out"),
        (ScheduleConfig, {"name": "constant", "by": "step"}, "by = 'step' has no effect with constant: leave it out"),
        (ScheduleConfig, {"name": "step", "milestones": [3], "length": 4}, "length = 4 has no effect with step: leave it out"),
        (ScheduleConfig, {"name": "step"}, "step needs milestones, such as [100, 150]"),
        (OptimizerConfig, {"name": "adam", "momentum": 0.5}, "momentum = 0.5 has no effect with adam: leave it out"),
        (OptimizerConfig, {"betas": [0.5, 0.9]}, "betas = [0.5, 0.9] has no effect with sgd: leave it out"),
        (OptimizerConfig, {"nesterov": True, "momentum": 0}, "nesterov needs a momentum above 0"),
        (OptimizerConfig, {"name": "adam", "betas": [0.5, 1]}, "betas.1 = 1 is not allowed"),
        (StageConfig, {"clip": -1}, "clip = -1 is not allowed"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_by_name(config: type[Config], value: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        config.parse(value)


def test_a_list_of_all_is_all() -> None:
    assert StageConfig.parse({"trains": ["all"]}) == StageConfig.parse({"trains": "all"})


@pytest.mark.parametrize("config", [OptimizerConfig(name="adam"), ScheduleConfig(name="constant"), StageConfig(trains="a.b", clip=5)])
def test_what_was_parsed_and_written_is_read_again(config: Config) -> None:
    assert type(config).parse(config.to_json()) == config


@pytest.mark.parametrize(
    ("trains", "sentence"),
    [
        ([], "give 'all', the path of a module, or a list of such paths"),
        ("", "give 'all', the path"),
        ([3], "give 'all', the path"),
        (["all", "a"], "'all' trains every module: leave the other paths out"),
        (3, "give 'all', the path"),
        (["a.b", "c", "a"], "'a.b' is trained with 'a' already: leave it out"),
        (["a", "a"], "'a' is trained with 'a' already"),
    ],
)
def test_paths_to_train_are_checked(trains: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        StageConfig.parse({"trains": trains})


def test_one_path_is_a_list_of_it_and_a_like_name_is_not_below_it() -> None:
    assert StageConfig.parse({"trains": "network.1"}).trains == ("network.1",)
    assert StageConfig.parse({"trains": ["network.1", "network.10"]}).trains == ("network.1", "network.10")
    assert StageConfig().trains == StageConfig.parse({"trains": "all"}).trains == "all"


def test_only_the_chosen_parts_are_prepared() -> None:
    student = plain_student()
    chosen = select_trained(student, ("network.1",))
    assert [parameter.shape for parameter in chosen] == [(6,), (6,)]
    assert [name for name, module in student.named_modules() if module.training] == ["network.1"]
    assert {name for name, value in student.named_parameters() if value.requires_grad} == {"network.1.weight", "network.1.bias"}
    both = select_trained(student, ("network.7", "network.1"))
    assert [parameter.shape for parameter in both] == [(4, 128), (4,), (6,), (6,)]
    assert [name for name, module in student.named_modules() if module.training] == ["network.1", "network.7"]
    assert len(select_trained(student, "all")) == len(list(student.parameters()))
    before = [module.training for module in student.modules()]
    with pytest.raises(ConfigError, match="has no parameters"):
        select_trained(student, ("network.1", "network.2"))
    with pytest.raises(ConfigError, match="'netwrk.1' names no module of the student: give 'all', or its paths; near it are network.1, "):
        select_trained(student, ("netwrk.1",))
    assert [module.training for module in student.modules()] == before, "a refusal leaves it as it was"


def test_a_weight_of_two_names_is_trained_once() -> None:
    layer = torch.nn.Linear(4, 4)
    student = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4), layer, torch.nn.ReLU(), layer), SPEC, CLASSES)
    assert len(select_trained(student, ("network.2", "network.4"))) == 2


def test_kd_is_its_formula_and_weights_its_terms() -> None:
    t, s = (torch.randn(6, 4, generator=stream(0, name)) for name in ("teacher", "student"))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    terms = KD(KDConfig(temperature=3.0, soft=2.0, hard=0.5)).terms(Seen(t, s, labels))
    expected = 0.0
    for i in range(6):
        p, q = (t[i] / 3).softmax(0), (s[i] / 3).softmax(0)
        expected += float((p * (p.log() - q.log())).sum()) / 6
    assert terms["kd"].item() == pytest.approx(2.0 * 9 * expected, rel=1e-4)
    assert terms["ce"].item() == pytest.approx(0.5 * float(functional.cross_entropy(s, labels)), rel=1e-5)


def test_kd_without_labels_takes_the_teachers() -> None:
    t, s = (torch.randn(6, 4, generator=stream(0, name)) for name in ("teacher", "student"))
    terms = KD(KDConfig(soft=0.0, hard=1.0)).terms(Seen(t, s))
    assert list(terms) == ["ce"]
    assert terms["ce"].item() == pytest.approx(float(functional.cross_entropy(s, t.argmax(1))), rel=1e-5)


def test_the_guides_plan_is_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "guides" / "student.md").read_text()
    (block,) = re.findall(r"```yaml\n(student:\n.*?)```", text, flags=re.DOTALL)
    (stage,) = StudentConfig.parse(read_yaml(block)["student"]).stages
    assert (stage.trains, stage.clip, stage.schedule.milestones) == (("network.blocks", "network.head"), 5.0, (20, 30))
    assert stage.objectives[0]["hard"] == 0.1
