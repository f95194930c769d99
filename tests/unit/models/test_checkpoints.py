"""Checkpoints as trainers leave them: what stands beside the weights, under which names they stand, and what is never run."""

import argparse
import datetime
import pathlib
import pickle
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.models.bundle import load_classifier
from distillery.models.catalog import Architecture
from distillery.models.foreign import import_checkpoint
from distillery.models.unpickling import read_objects
from distillery.models.weight_sets import flatten, select
from distillery.types import Classifier, ImageSpec
from distillery_kfp.pipelines.cli import app as cli

SPEC = ImageSpec(channels=1, height=6, width=6, mean=(0.5,), std=(0.25,))
NAMES = ("a", "b", "c")
NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, features=4, num_classes=3):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, features, 3), nn.BatchNorm2d(features), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, num_classes))

    def forward(self, images):
        return self.head(self.encoder(images))

def open_ended(**options):
    return Net(**{"num_classes": 1000, **options})

def n_classes(n_classes=10):
    return Net(num_classes=n_classes)

def fixed():
    return Net(num_classes=10)

def rounded():
    net = Net()
    net.register_buffer("steps", __import__("torch").zeros(2, dtype=__import__("torch").int64))
    return net
"""
HERE = Architecture(name="checkpoint_nets:Net")


@pytest.fixture(autouse=True)
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    """A trained-looking network; by default always the same one."""
    (tmp_path / "checkpoint_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", "checkpoint_nets")
    from checkpoint_nets import Net  # type: ignore[import-not-found]

    def made(seed: int = 1, **arguments: Any) -> nn.Module:
        torch.manual_seed(seed)
        network: nn.Module = Net(**arguments)
        network(torch.randn(8, 1, 6, 6))
        return network

    return made


def imported(tmp_path: Path, content: object, weights: str = "", name: str = "Net", **how: Any) -> Classifier:
    torch.save(content, tmp_path / "c.pt", **how)
    return import_checkpoint(tmp_path / "c.pt", Architecture(name=f"checkpoint_nets:{name}"), SPEC, NAMES, weights)


def check_same(found: Classifier, network: nn.Module) -> None:
    for key, value in network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[key], value, rtol=0, atol=0)


def beginning(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in network.state_dict().items()}


def beside() -> dict[str, Any]:
    """What trainers keep beside the weights."""
    return {
        "epoch": np.int64(7),
        "best": np.float32(0.5),
        "loss": np.float64(0.25),
        "history": np.arange(3.0),
        "rng": np.random.RandomState(0).get_state(),
        "classes": np.array(["a", "b"]),
        "args": argparse.Namespace(lr=0.1, out=Path("runs/1"), when=datetime.datetime(2024, 5, 1), delta=datetime.timedelta(1)),
        "paths": [pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("b")],
        "meters": defaultdict(list, {"top1": [1.0, np.float64(2)]}),
        "counts": Counter("aab"),
        "last": deque([1, 2], maxlen=3),
        "price": Decimal("1.5"),
        "kinds": (torch.float32, torch.Size([1, 2]), torch.device("cpu"), np.dtype("float32"), np.float32, int, float),
        "misc": {"set": {1}, "frozen": frozenset([1]), "complex": 1j, "none": None, "bytes": b"x", "ordered": OrderedDict(a=1)},
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_what_trainers_leave_beside_the_weights_is_not_in_the_way(
    tmp_path: Path, net: Callable[..., nn.Module], caplog: pytest.LogCaptureFixture, zipped: bool
) -> None:
    network = net()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(4, 1, 6, 6)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    content = {"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict(), "state_dict": network.state_dict(), **beside()}
    check_same(imported(tmp_path, content, _use_new_zipfile_serialization=zipped), network)
    assert not caplog.records


PLACES = ["model_state", "state", "weights", "params", "network", "my_own_key", "a.b.c", "model.state_dict", "ema_state_dict"]
PREFIXES = ["", "model.", "net.", "_orig_mod.", "module.", "backbone.", "module.model.", "_orig_mod.module.", "x1.y."]
PREFIXES += ["module._orig_mod.net."]


@pytest.mark.parametrize("place", ["", *PLACES])
def test_weights_are_found_under_any_key(tmp_path: Path, net: Callable[..., nn.Module], place: str) -> None:
    content: Any = beginning("model.", net())
    for part in reversed(place.split(".") if place else []):
        content = {"epoch": 1, part: content}
    check_same(imported(tmp_path, content), net())


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("envelope", [True, False])
def test_any_common_beginning_is_stripped(tmp_path: Path, net: Callable[..., nn.Module], prefix: str, envelope: bool) -> None:
    weights = beginning(prefix, net())
    check_same(imported(tmp_path, {"state_dict": weights} if envelope else weights), net())
    save_file(weights, tmp_path / "c.safetensors")
    check_same(import_checkpoint(tmp_path / "c.safetensors", HERE, SPEC, NAMES), net())


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
def test_wrappers_of_parts_are_stripped(tmp_path: Path, net: Callable[..., nn.Module], wrapper: str) -> None:
    weights = {key.replace("encoder.", f"encoder.{wrapper}."): value for key, value in beginning("module.", net()).items()}
    check_same(imported(tmp_path, weights), net())


def test_parts_that_were_saved_apart_are_put_together(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    network = net()
    check_same(imported(tmp_path, {part: getattr(network, part).state_dict() for part in ("encoder", "head")}), network)


AVERAGES = {
    "model_ema": lambda net: beginning("", net),
    "state_dict_ema": lambda net: beginning("module.", net),
    "ema": lambda net: {"state_dict": net.state_dict(), "decay": 0.99},
    "averaged_model": lambda net: {"n_averaged": torch.tensor(3), **beginning("module.", net)},
}


@pytest.mark.parametrize("key", sorted(AVERAGES))
@pytest.mark.parametrize("first", [True, False])
def test_plain_weights_are_taken_before_an_average_and_it_is_said(
    tmp_path: Path, net: Callable[..., nn.Module], caplog: pytest.LogCaptureFixture, key: str, first: bool
) -> None:
    average, plain = {key: AVERAGES[key](net(2))}, {"state_dict": net(1).state_dict()}
    content = {**average, **plain} if first else {**plain, **average}
    check_same(imported(tmp_path, content), net(1))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "those under 'state_dict' were taken" in said
    assert f"not those under {key}" in said
    chosen = said.rpartition("--weights ")[2].split()[0]
    caplog.clear()
    for weights in (key, chosen):
        check_same(imported(tmp_path, content, weights), net(2))
    check_same(imported(tmp_path, content, "state_dict"), net(1))
    assert not caplog.records


def test_an_average_alone_is_taken(tmp_path: Path, net: Callable[..., nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    check_same(imported(tmp_path, {"ema": net(2).state_dict(), "epoch": 1}), net(2))
    assert not caplog.records


def test_an_average_beside_the_weights_in_one_dict(tmp_path: Path, net: Callable[..., nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    content = {"state_dict": {**beginning("ema_model.", net(2)), **beginning("model.", net(1))}, "hyper_parameters": {"lr": 1}}
    check_same(imported(tmp_path, content), net(1))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith(
        "not those under state_dict.ema_model (an average of weights); --weights state_dict.ema_model takes these instead."
    )
    check_same(imported(tmp_path, content, "state_dict.ema_model"), net(2))


def test_weights_that_fit_are_taken_before_others(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    content = {"teacher": net(2, features=5).state_dict(), "student": net(1).state_dict(), "optimizer": {"weight": torch.ones(3)}}
    check_same(imported(tmp_path, content), net(1))


def test_a_wrong_key_is_answered_with_the_sets_that_fit_before_the_rest(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    optimizer = {"state": {name: {"exp_avg": torch.ones(2)} for name in ("0", "1", "2")}}
    content = {"aaa": {"x": torch.ones(1)}, "optimizer": optimizer, "state_dict": net(1).state_dict(), "model_ema": net(2).state_dict()}
    with pytest.raises(ConfigError, match="whose tensors stand under state_dict, model_ema, ") as caught:
        imported(tmp_path, content, "wrong")
    named = str(caught.value).partition("stand under ")[2]
    assert named.startswith("state_dict, model_ema, ")


@pytest.mark.parametrize(
    ("chosen", "words"),
    [("modle", "names nothing.*model, model_ema, .*did you mean 'model'"), ("model.head.0.x", "names nothing"), ("x", "names nothing")],
)
def test_a_key_that_is_not_there(tmp_path: Path, net: Callable[..., nn.Module], chosen: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        imported(tmp_path, {"model": net(1).state_dict(), "model_ema": net(2).state_dict()}, chosen)
    assert "--weights" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_stands_beside_a_beginning_is_left_out_and_named(
    tmp_path: Path, net: Callable[..., nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    weights = {**beginning("model.", net()), "criterion.weight": torch.ones(3), "temperature": torch.ones(1), "n_averaged": torch.tensor(1)}
    check_same(imported(tmp_path, {"state_dict": weights, "optimizer": {"momentum": torch.ones(2)}}), net())
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "What stands beside the weights under 'state_dict.model' was left out: criterion.weight, temperature."


def test_what_stands_among_the_weights_is_refused_by_name(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    for prefix in ("", "model."):
        with pytest.raises(ConfigError, match=r"\(unexpected: aux.weight\)"):
            imported(tmp_path, {**beginning(prefix, net()), f"{prefix}aux.weight": torch.ones(3)})
    partly = {key: value for key, value in beginning("model.", net()).items() if "head" not in key}
    with pytest.raises(ConfigError, match=r"\(missing: head.2.bias, head.2.weight\)"):
        imported(tmp_path, {**partly, "optimizer": {"0": torch.ones(2)}})


def test_nothing_that_fits_names_what_stands_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing: encoder.0.bias.*unexpected: conv.weight, fc.weight\)"):
        imported(tmp_path, {"model": {"conv.weight": torch.ones(2), "fc.weight": torch.ones(2)}, "optimizer": {"0": torch.ones(1)}})


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_become_those_of_the_network(tmp_path: Path, net: Callable[..., nn.Module], kind: torch.dtype) -> None:
    network = net()
    found = imported(tmp_path, network.to(kind).state_dict()).network.state_dict()
    for key, value in network.state_dict().items():
        assert found[key].dtype == (torch.int64 if key.endswith("tracked") else torch.float32)
        assert torch.equal(found[key].to(value.dtype), value)
    assert int(found["encoder.1.num_batches_tracked"]) == 1


def test_integers_stay_as_they_are_and_are_no_weights(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    weights = {**net().half().state_dict(), "steps": torch.tensor([2**53 + 1, -1])}
    assert imported(tmp_path, weights, name="rounded").network.state_dict()["steps"].tolist() == [2**53 + 1, -1]
    weights["head.2.weight"] = torch.ones(3, 4, dtype=torch.int8)
    with pytest.raises(ConfigError, match=r"of integers where numbers with a fraction belong: head.2.weight\)"):
        imported(tmp_path, weights, name="rounded")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("open_ended", "builds 1000 classes by itself.*has 3: give --argument num_classes=3"),
        ("n_classes", "builds 10 classes by itself.*has 3: give --argument n_classes=3"),
        ("fixed", "builds 10 classes by itself.*has 3: give the argument of its class count"),
    ],
)
def test_a_factory_that_is_not_told_the_classes(tmp_path: Path, net: Callable[..., nn.Module], name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        imported(tmp_path, net().state_dict(), name=name)


class Trap:
    """Pickled as a call."""

    def __init__(self, call: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.made = (call, arguments) if state is None else (call, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


def test_no_type_on_the_list_runs_anything(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    mark = tmp_path / "ran"
    for trap in (Trap(Path.touch, mark), Trap(eval, f"open({str(mark)!r}, 'w')"), Trap(mark.touch), Trap(pickle.loads, b"cos\nsystem\n.")):
        for content in (trap, {"args": argparse.Namespace(x=trap)}, {"m": defaultdict(list, x=trap)}, {"p": Trap(Path, trap)}):
            with pytest.raises(ConfigError, match="never unpickled|without running code"):
                imported(tmp_path, {"state_dict": net().state_dict(), "extra": content})
    assert not mark.exists()


def test_types_on_the_list_never_meet_what_a_file_gives_them(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    reconstruct = np.ndarray(1).__reduce__()[0]
    traps = {
        "factory": Trap(defaultdict, int),
        "namespace": Trap(argparse.Namespace, state={"__class__": "x", "__dict__": {"a": 1}}),
        "reconstruct": Trap(reconstruct, argparse.Namespace, (0,), b"b"),
        "dtype": Trap(np.dtype, "O8", state=(3, "|", None, None, None, -1, -1, 63)),
        "path": Trap(pathlib.PurePosixPath, "a", state={"x": 1}),
        "list": Trap(list, (1, 2)),
        "huge": Trap(np.ndarray, (2**40,)),
    }
    content = {"state_dict": net().state_dict(), **traps}
    check_same(imported(tmp_path, content), net())
    kinds = {key: type(value).__name__ for key, value in read_objects(tmp_path / "c.pt").items()}  # type: ignore[attr-defined]
    assert {kinds[key] for key in traps} == {"_Ignored", "dict"}


class Settings:
    """A class that only this process knows."""


def test_a_type_that_is_not_on_the_list_is_named(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"of the type [\w.]*test_checkpoints\.Settings, and objects are never unpickled.*state_dict\(\)"):
        imported(tmp_path, {"state_dict": net().state_dict(), "settings": Settings()})


def test_a_dict_that_holds_itself(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    content: dict[Any, Any] = {"model": net().state_dict(), 3: {"x": 1}}
    content["self"] = content
    content["model"]["up"] = content
    assert len(flatten(content).weights) == len(net().state_dict())
    check_same(imported(tmp_path, content), net())


def test_many_names_cost_little(net: Callable[..., nn.Module]) -> None:
    shared = {f"k{n}": {} for n in range(200)}
    for row in shared.values():
        row.update(shared)
    assert not flatten(shared).weights


def test_versions_of_modules_follow_their_names(tmp_path: Path, net: Callable[..., nn.Module]) -> None:
    state = nn.DataParallel(net()).state_dict()
    content = {"model": OrderedDict(state)}
    content["model"]._metadata = state._metadata  # type: ignore[attr-defined]
    found = select(flatten(content), net().state_dict()).weights
    assert found._metadata == net().state_dict()._metadata  # type: ignore[attr-defined]


def test_the_command_takes_the_key(tmp_path: Path, net: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": net(1).state_dict(), "ema": net(2).state_dict()}, tmp_path / "c.pt")
    monkeypatch.chdir(tmp_path)
    words = "distillery import-teacher c.pt --architecture checkpoint_nets:Net --shape 1,6,6 --mean 0.5 --std 0.25 --classes a,b,c --out t"
    for key, seed in (((), 1), (("--weights", "ema"), 2)):
        monkeypatch.setattr(sys, "argv", [*words.split(), *key])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        check_same(load_classifier(tmp_path / "t"), net(seed))
