"""The synthesizer's bundle: nested state round-trips, equal state equal bytes, wrong ones are refused."""

import json
from pathlib import Path

import pytest
import torch

from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.provenance import Provenance
from distillery.synthesis.bundle import SynthesizerState, describe_synthesizer, load_synthesizer, read_synthesizer, save_synthesizer
from fakes import FakeSynthesizer, tiny_teacher

PROVENANCE = Provenance(code_version="test")
TEACHER = "a" * 64


def content(state: dict[str, object]) -> SynthesizerState:
    return SynthesizerState("fake", {"rate": 0.1}, TEACHER, state)


def test_a_real_state_comes_back_and_goes_on_the_same(tmp_path: Path) -> None:
    teacher = tiny_teacher(steps=1)
    alone = FakeSynthesizer(teacher)
    alone.advance(None)
    save_synthesizer(tmp_path, content(alone.state_dict()), PROVENANCE)
    restored = FakeSynthesizer(teacher, seed=9)
    loaded = load_synthesizer(tmp_path, TEACHER)
    restored.load_state_dict(loaded.state)
    assert (loaded.method, loaded.config) == ("fake", {"rate": 0.1})
    for synthesizer in (alone, restored):
        synthesizer.advance(None)
    assert torch.equal(alone.pictures, restored.pictures)
    assert torch.equal(alone.synthesize(5).images, restored.synthesize(5).images)


def test_every_kind_of_value_round_trips(tmp_path: Path) -> None:
    shared = torch.randn(4, 3, 2, 2)
    state = {
        "shared": [shared, shared.view(-1)],
        "strided": shared.contiguous(memory_format=torch.channels_last),
        "keys": {0: 0.1, "1": [True, "x", 2**40], 2: {}},
        "scalar": torch.tensor(3, dtype=torch.int64),
        "bytes": torch.Generator().get_state(),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    save_synthesizer(tmp_path, content(state), PROVENANCE)
    found = load_synthesizer(tmp_path, TEACHER).state
    assert found["keys"] == state["keys"]
    assert torch.equal(found["shared"][1], shared.view(-1))
    assert torch.equal(found["strided"], shared)
    assert found["scalar"].shape == ()
    assert torch.equal(found["bytes"], state["bytes"])
    assert found["half"].dtype == torch.bfloat16


def test_equal_state_gives_equal_bytes(tmp_path: Path) -> None:
    state = FakeSynthesizer(tiny_teacher(steps=1)).state_dict()
    hashes = [save_synthesizer(tmp_path / name, content(state), PROVENANCE) for name in ("a", "b")]
    assert hashes[0] == hashes[1] == read_synthesizer(tmp_path / "a")[1]
    for name in ("synthesizer.json", "state.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("number", ["000000", "000007"])
def test_a_state_that_is_not_of_its_tensors_is_refused(number: str, tmp_path: Path) -> None:
    """Of a bundle of version 1, which holds no hash: one tensor in two places, or in none."""
    save_synthesizer(tmp_path, content({"a": torch.ones(3), "b": torch.zeros(3)}), PROVENANCE)
    path = tmp_path / "synthesizer.json"
    document = {name: value for name, value in json.loads(path.read_text()).items() if name != "document_sha256"}
    path.write_text(json.dumps({**document, "version": 1}))
    assert torch.equal(load_synthesizer(tmp_path, TEACHER).state["b"], torch.zeros(3))
    path.write_text(path.read_text().replace("000001", number))
    with pytest.raises(StoreError, match="is not of its tensors"):
        load_synthesizer(tmp_path, TEACHER)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no synthesizer bundle"):
        load_synthesizer(tmp_path, TEACHER)
    save_synthesizer(tmp_path, content({"a": torch.ones(3)}), PROVENANCE)
    with pytest.raises(CheckpointMismatchError, match="trained against teacher aaaaaaaaaaaa"):
        load_synthesizer(tmp_path, "b" * 64)
    tensors = tmp_path / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\0")
    with pytest.raises(StoreError, match="do not match their sha256"):
        load_synthesizer(tmp_path, TEACHER)
    document = json.loads((tmp_path / "synthesizer.json").read_text())
    (tmp_path / "synthesizer.json").write_text(json.dumps({**document, "version": 4}))
    with pytest.raises(CheckpointMismatchError, match="version 4"):
        load_synthesizer(tmp_path, TEACHER)


def test_what_a_bundle_says_of_itself_needs_no_tensors(tmp_path: Path) -> None:
    saved = content({"a": torch.ones(3)})
    save_synthesizer(tmp_path, saved, PROVENANCE)
    (tmp_path / "state.safetensors").unlink()
    facts = describe_synthesizer(tmp_path, TEACHER)
    assert (facts.method, facts.method_config, facts.teacher_sha256, facts.share) == (saved.method, saved.config, TEACHER, saved.share)
    with pytest.raises(CheckpointMismatchError, match="trained against teacher aaaaaaaaaaaa"):
        describe_synthesizer(tmp_path, "b" * 64)
    with pytest.raises(StoreError, match="missing"):
        load_synthesizer(tmp_path, TEACHER)
