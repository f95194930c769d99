"""Teachers that run and are none: found where they are imported, in one sentence each."""

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import toy_networks
from distillery.errors import ConfigError
from distillery.models.catalog import Architecture
from distillery.models.findings import check_constants, judge
from distillery.models.foreign import import_checkpoint
from distillery.models.trial import Trial
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = ("a", "b", "c")


def imported(folder: Path, name: str, spec: ImageSpec = SPEC) -> Classifier:
    torch.save(getattr(toy_networks, name)().state_dict(), folder / "weights.pt")
    return import_checkpoint(folder / "weights.pt", Architecture(name=f"toy_networks:{name}"), spec, NAMES)


TOLD = {
    "LogSoftmaxed": "logarithms of probabilities",
    "Sigmoided": "as after a sigmoid",
    "Blocked": r"lets no gradient through to its images \(it cuts its logits off",
    "Inference": "lets no gradient through",
    "DetachedInPlace": "lets no gradient through",
    "Rounded": r"lets no gradient through to its images \(no gradient comes through \(rounding",
    "ThroughNumpy": "lets no gradient through.*Can't call numpy",
    "WrittenInPlace": "lets no gradient through.*fails as gradients go back",
    "Dropping": "answers otherwise when it is asked again",
    "Counting": r"changes its own state network\.passes in eval mode",
}


@pytest.mark.parametrize("name", sorted(TOLD))
def test_a_teacher_of_limited_use_is_imported_and_said(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    imported(tmp_path, name)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "\n" not in record.getMessage()
    assert re.search(TOLD[name], record.getMessage())


@pytest.mark.parametrize("name", ["Pooled", "Viewed", "ViewedBefore", "FiveDimensions", "Auxiliary", "CutInTraining", "Float32Only"])
def test_a_sound_teacher_is_imported_without_a_word(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    classifier = imported(tmp_path, name)
    assert not [record for record in caplog.records if "bfloat16" not in record.getMessage()]
    assert not classifier.training
    assert all(weight.requires_grad for weight in classifier.parameters())


def test_probabilities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"toy_networks:Softmaxed gives probabilities, not logits.*return what goes into its softmax"):
        imported(tmp_path, "Softmaxed")


def test_weights_that_a_hook_refuses_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"RefusesWeights does not take the weights of .*\(KeyError: 'not these'\)"):
        imported(tmp_path, "RefusesWeights")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.tensor([[0.2, 0.8], [0.7, 0.2], [0.9, 0.1]]), ["sigmoid"]),  # one row short of 1
        (torch.tensor([[1.2, -0.2], [0.7, 0.3], [0.9, 0.1]]), []),  # sums of 1, one of them of no probabilities
        (torch.tensor([[0.2, 0.8]] * 3), None),
        (torch.tensor([[3.0, -1.0]] * 3), ["gives the same for images"]),
        (torch.zeros(3, 2), ["gives the same for images"]),
        (torch.tensor([[0.1, 0.3], [0.2, 0.4], [1.1, 0.0]]), []),
    ],
)
def test_rows_are_judged_for_what_they_are(rows: Tensor, words: list[str] | None) -> None:
    trial = Trial("channels_last", {1: rows[:1], 2: rows[:2], 3: rows})
    if words is None:
        with pytest.raises(ConfigError, match="probabilities"):
            judge(trial, "net")
        return
    found = judge(trial, "net")
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "gives mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225"),
        ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "gives mean 0, 0, 0 and std 1, 1, 1"),
        ((0.4, 2.0, 0.4), (0.2, 0.2, 0.2), "divide both by 255"),
    ],
)
def test_constants_of_the_other_scale_are_refused(tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        imported(tmp_path, "Pooled", SPEC.model_copy(update={"mean": mean, "std": std}))


@pytest.mark.parametrize(("mean", "std"), [((0.0,), (1.0,)), ((0.5,), (0.5,)), ((1.0,), (1 / 255,)), ((-1.0,), (2.0,))])
def test_constants_of_pixels_in_0_to_1_pass(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    check_constants(ImageSpec(channels=1, height=8, width=8, mean=mean, std=std))
