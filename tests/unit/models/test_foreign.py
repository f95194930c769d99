"""Foreign checkpoints: what is unwrapped, what is refused, and with which words."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distillery.errors import ConfigError, MissingResourceError, StoreError
from distillery.models.catalog import Architecture, build_network
from distillery.models.foreign import import_checkpoint
from distillery.types import Classifier, ImageSpec

SPEC = ImageSpec(channels=3, height=16, width=16, mean=(0.5,) * 3, std=(0.25,) * 3)
NET = Architecture(name="resnet8", arguments={"base_width": 2})
NAMES = ("a", "b", "c", "d")


def _weights(classes: int = 4, **arguments: Any) -> dict[str, Tensor]:
    torch.manual_seed(5)
    network = build_network(Architecture(name="resnet8", arguments={"base_width": 2, **arguments}), SPEC, classes)
    network.train()(torch.randn(8, 3, 16, 16))
    return network.state_dict()


def _saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    return path


def _import(path: Path, names: tuple[str, ...] = NAMES, architecture: Architecture = NET, spec: ImageSpec = SPEC) -> Classifier:
    return import_checkpoint(path, architecture, spec, names)


def _prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in _weights().items()}


VARIANTS = {
    "plain": _weights,
    "state_dict": lambda: {"epoch": 3, "state_dict": _weights(), "optimizer": {"state": {}}},
    "model": lambda: {"model": _weights(), "best": 0.9},
    "model_state_dict": lambda: {"model_state_dict": _weights()},
    "nested": lambda: {"model": {"state_dict": _weights()}},
    "module": lambda: _prefixed("module."),
    "compiled": lambda: _prefixed("_orig_mod."),
    "module_compiled": lambda: {"state_dict": _prefixed("module._orig_mod.")},
    "compiled_module": lambda: _prefixed("_orig_mod.module."),
    "averaged": lambda: {"n_averaged": torch.tensor(3), **_prefixed("module.")},
    "half": lambda: {name: value.half() if value.is_floating_point() else value for name, value in _weights().items()},
    "no_counters": lambda: {name: value for name, value in _weights().items() if "num_batches" not in name},
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_torch_checkpoints_are_unwrapped(tmp_path: Path, variant: str) -> None:
    classifier = _import(_saved(tmp_path, VARIANTS[variant]()))
    expected = _weights()
    tolerance = 1e-3 if variant == "half" else 0
    for name, value in classifier.network.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, expected[name], atol=tolerance, rtol=tolerance)
    assert not classifier.training
    assert classifier.class_names == NAMES


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(_prefixed("module."), tmp_path / "weights.safetensors")
    classifier = _import(tmp_path / "weights.safetensors")
    assert torch.equal(classifier.network.state_dict()["head.weight"], _weights()["head.weight"])


def test_a_network_whose_own_names_begin_with_module_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrapped_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.module = nn.Sequential(nn.Flatten(), nn.Linear(768, num_classes))\n"
        "    def forward(self, x):\n"
        "        return self.module(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", "wrapped_net")
    architecture = Architecture(name="wrapped_net:Net")
    weights = build_network(architecture, SPEC, 4).state_dict()
    for prefix in ("", "module."):
        path = _saved(tmp_path, {prefix + name: value for name, value in weights.items()})
        assert torch.equal(_import(path, architecture=architecture).network.state_dict()["module.1.weight"], weights["module.1.weight"])


def test_missing_unexpected_and_misshapen_weights_stand_in_one_error(tmp_path: Path) -> None:
    weights = _weights()
    weights["classifier.weight"] = weights.pop("head.weight")
    weights["stem.0.weight"] = weights["stem.0.weight"][:, :1]
    with pytest.raises(ConfigError) as caught:
        _import(_saved(tmp_path, weights))
    message = str(caught.value)
    assert "missing: head.weight" in message
    assert "unexpected: classifier.weight" in message
    assert "stem.0.weight (2, 1, 3, 3) instead of (2, 3, 3, 3)" in message
    assert "\n" not in message


def test_long_lists_are_cut(tmp_path: Path) -> None:
    extra = {f"tail.{number}": torch.zeros(1) for number in range(9)}
    with pytest.raises(ConfigError, match=r"unexpected: tail\.0, tail\.1, tail\.2, tail\.3 and 5 more\)"):
        _import(_saved(tmp_path, {**_weights(), **extra}))


def test_class_count_mismatch_says_both_counts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 7 classes, but 4 class names were given"):
        _import(_saved(tmp_path, _weights(classes=7)))


class _Whole(nn.Linear):
    """A class that only this process knows, as in a pickled whole model."""


@pytest.mark.parametrize("content", [_Whole(2, 2), {"model": _Whole(2, 2)}, {"args": _Whole(2, 2), "state_dict": {}}])
def test_pickled_objects_are_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ConfigError, match=r"objects are never unpickled.*state_dict\(\)") as caught:
        _import(_saved(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_pickle_never_runs_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(ConfigError, match="never unpickled"):
        _import(_saved(tmp_path, Trap()))
    assert not (tmp_path / "ran").exists()


def test_torchscript_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has deprecated TorchScript; people have it nevertheless
        torch.jit.save(torch.jit.trace(network, torch.randn(1, 4)), tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="state_dict") as caught:
        _import(tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_damaged_file_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        _import(path)
    assert "\n" not in str(caught.value)
    (tmp_path / "weights.safetensors").write_bytes(data)
    with pytest.raises(StoreError, match="safetensors"):
        _import(tmp_path / "weights.safetensors")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no checkpoint"):
        _import(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(("content", "words"), [([1, 2], "a list"), ({"epoch": 3, "note": "hm"}, "no tensors under epoch, note")])
def test_file_without_weights(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _import(_saved(tmp_path, content))


def test_weights_that_give_no_finite_logits_are_refused(tmp_path: Path) -> None:
    weights = _weights()
    weights["head.bias"] = torch.full((4,), float("nan"))
    with pytest.raises(ConfigError, match="not finite"):
        _import(_saved(tmp_path, weights))


def test_impossible_image_size_is_one_sentence(tmp_path: Path) -> None:
    flat = Architecture(name="torchvision:alexnet")
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build_network(flat, SPEC, 4).state_dict().items()}
    path = _saved(tmp_path, {name: torch.zeros(shape) for name, shape in shapes.items()})
    with pytest.raises(ConfigError, match="fails on images of 3x16x16") as caught:
        _import(path, architecture=flat)
    assert "\n" not in str(caught.value)


def test_logits_of_another_shape_are_refused(tmp_path: Path) -> None:
    flat = Architecture(name="torch.nn:Sequential")
    with pytest.raises(ConfigError, match=r"gives \(2, 3, 16, 16\) for 2 images"):
        _import(_saved(tmp_path, {"n_averaged": torch.tensor(1)}), architecture=flat)
