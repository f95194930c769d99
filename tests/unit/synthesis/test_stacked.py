"""What a share of an ensemble owes as a synthesizer: exact resume, its bundle, streams of its own; and how many learn at once."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.tiny import changed, flatten
from distillery.methods.ls_gdfd import LSGDFD, LSGDFDConfig
from distillery.provenance import Provenance, code_version
from distillery.runtime import resolve_runtime
from distillery.synthesis import stacked
from distillery.synthesis.bundle import SynthesizerState, load_synthesizer, save_synthesizer
from distillery.synthesis.protocol import SAMPLING, Ingredients
from distillery.synthesis.share import Share
from distillery.types import Batch, ImageSpec
from equivalence.plain import moments_of, tiny_classifier

SHARE = Share(0, 2, 2)


def build(seed: int = 0, share: Share = SHARE, precision: str = "float32") -> LSGDFD:
    generator = {"name": "conditional", "latent": 6, "width": 4, "condition": "one_hot"}
    config = LSGDFDConfig.parse({"generator": generator, "batch": 8, "steps_per_round": 3, "jitter": 1})
    teacher = tiny_classifier(6, seed=1).freeze()
    return LSGDFD(config, Ingredients(teacher, resolve_runtime("cpu", precision), seed, moments_of(teacher), share=share))


def through_disk(state: Any, path: Path) -> Any:
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def strides(method: LSGDFD) -> list[tuple[int, ...]]:
    """Of every weight and of what Adam knows of it."""
    found = []
    for learner in method._held.learners:
        for weight in learner.network.parameters():
            known = learner.optimizer.state[weight]
            found += [weight.stride(), known["exp_avg"].stride(), known["exp_avg_sq"].stride()]
    return found


@pytest.mark.parametrize("turns", [0, 1, 3])
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_resumed_share_goes_on_as_one_left_alone(turns: int, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked, "at_once", lambda *_: at_once)
    left_alone, resumed = build(), build(seed=7)
    for _ in range(turns):
        left_alone.advance(None)
        left_alone.synthesize(3)
    resumed.load_state_dict(through_disk(left_alone.state_dict(), tmp_path / "state"))
    assert changed(flatten(left_alone.state_dict()), flatten(resumed.state_dict())) == set()
    resumed = build()
    resumed.load_state_dict(through_disk(left_alone.state_dict(), tmp_path / "state"))
    for _ in range(2):
        left_alone.advance(None)
        resumed.advance(None)
        left_alone.synthesize(3)
        resumed.synthesize(3)
    assert changed(flatten(left_alone.state_dict()), flatten(resumed.state_dict())) == set()
    assert strides(left_alone) == strides(resumed)
    assert strides(left_alone).count((8 * 9, 1, 3 * 8, 8)) == 6 // at_once * 2, "weights and both moments of two layers, channels-last"


def test_what_a_generator_makes_depends_on_none_that_stands_beside_it() -> None:
    whole, alone = build(share=Share(0, 3, 3)), build(share=Share(1, 2, 3))
    for _ in range(2):
        mixed = whole.synthesize(6, torch.tensor([0, 1, 2, 0, 1, 1])).images[[1, 4, 5]]
        torch.testing.assert_close(mixed, alone.synthesize(3, torch.tensor([1, 1, 1])).images)


def test_a_bundle_holds_a_share(tmp_path: Path) -> None:
    method, other = build(), build(seed=5)
    method.advance(None)
    content = SynthesizerState("ls_gdfd", method.config.to_json(), "t", method.state_dict())
    save_synthesizer(tmp_path, content, Provenance(code_version=code_version()))
    other.load_state_dict(load_synthesizer(tmp_path, "t").state)
    assert torch.equal(method.synthesize(7).images, other.synthesize(7).images)


def test_sampling_changes_its_own_streams_alone() -> None:
    method, sampled = build(), build()
    before = copy.deepcopy(flatten(sampled.state_dict()))
    everywhere = torch.random.get_rng_state()
    made = sampled.synthesize(9)
    assert changed(before, flatten(sampled.state_dict())) == {f"/{SAMPLING}"}
    assert made.images.shape == (9, 2, 8, 8)
    assert changed(dict(method.advance(None).terms), dict(sampled.advance(None).terms)) == set()
    assert torch.equal(everywhere, torch.random.get_rng_state())
    assert len(sampled.synthesize(0)) == 0


def test_what_a_generator_makes_depends_on_no_label_of_another() -> None:
    alone, mixed = build(), build()
    first = alone.synthesize(3, torch.tensor([0, 0, 0])).images
    second = mixed.synthesize(5, torch.tensor([1, 0, 2, 0, 0])).images
    torch.testing.assert_close(second[[1, 3, 4]], first)


def test_a_share_trained_alone_makes_what_it_makes_in_the_whole() -> None:
    whole, part = build(), build(share=Share(1, 2, 2))
    for method in (whole, part):
        method.advance(None)
    labels = torch.tensor([1, 2, 2, 1])
    one, other = whole.synthesize(4, labels), part.synthesize(4, labels)
    torch.testing.assert_close(one.images, other.images, rtol=1e-4, atol=1e-5)


def test_a_stack_learns_in_bfloat16_and_gives_its_last_images() -> None:
    turn = build(precision="bfloat16").advance(None)
    assert isinstance(turn.batch, Batch)
    assert turn.batch.images.shape == (16, 2, 8, 8)
    assert turn.batch.images.dtype == torch.float32
    assert all(torch.isfinite(term) for term in turn.terms.values())


@pytest.mark.parametrize(
    ("batch", "side", "generators", "device", "expected"),
    [(16, 16, 100, "cpu", 16), (16, 16, 10, "cpu", 10), (64, 16, 100, "cpu", 4), (64, 28, 10, "cpu", 1), (16, 224, 9, "cpu", 1)]
    + [(64, 224, 100, "cuda", 100)],
)
def test_how_many_learn_at_once(batch: int, side: int, generators: int, device: str, expected: int) -> None:
    spec = ImageSpec(channels=1, height=side, width=side, mean=(0.5,), std=(0.5,))
    assert stacked.at_once(batch, spec, generators, torch.device(device)) == expected
