"""The table of architectures and the doors to foreign networks."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from distillery.config import Config
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.models.bundle import count_parameters
from distillery.models.catalog import ARCHITECTURES, Architecture, build_network, check_own_sources, own_sources
from distillery.statistics.layers import find_layers
from distillery.types import Classifier, ImageSpec


def _spec(channels: int = 3, height: int = 32, width: int = 32) -> ImageSpec:
    return ImageSpec(channels=channels, height=height, width=width, mean=(0.5,) * channels, std=(0.25,) * channels)


def _build(name: str, spec: ImageSpec | None = None, classes: int = 10, **arguments: object) -> torch.nn.Module:
    return build_network(Architecture(name=name, arguments=arguments), spec or _spec(), classes)


def _classifier(name: str, **arguments: object) -> Classifier:
    return Classifier(_build(name, None, 2, **arguments), _spec(), ("a", "b"))


# Counts of the networks' papers and of their best known implementations, 10 classes of 3x32x32.
PUBLISHED = [
    ("resnet20", {"shortcut": "A"}, 269_722),
    ("resnet20", {"shortcut": "B"}, 272_474),
    ("resnet32", {"shortcut": "A"}, 464_154),
    ("resnet44", {"shortcut": "A"}, 658_586),
    ("resnet56", {"shortcut": "A"}, 853_018),
    ("resnet110", {"shortcut": "A"}, 1_727_962),
    ("resnet18", {}, 11_173_962),
    ("resnet34", {}, 21_282_122),
    ("resnet50", {}, 23_520_842),
    ("wrn_16_1", {}, 175_066),
    ("wrn_16_2", {}, 691_674),
    ("wrn_40_1", {}, 563_930),
    ("wrn_40_2", {}, 2_243_546),
    ("wrn_28_10", {}, 36_479_194),
    ("vgg11_bn", {}, 9_228_362),
    ("vgg13_bn", {}, 9_413_066),
    ("vgg16_bn", {}, 14_724_042),
    ("mobilenet_v2", {}, 2_236_682),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), PUBLISHED)
def test_parameter_count_is_the_published_one(name: str, arguments: dict[str, object], expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(_build(name, **arguments)) == expected


def test_lenet_counts_for_one_channel() -> None:
    assert count_parameters(_build("lenet5", _spec(1))) == 61_706
    assert count_parameters(_build("lenet5_half", _spec(1))) == 15_738


def test_table_holds_every_promised_name() -> None:
    promised = {f"resnet{d}" for d in (8, 14, 20, 26, 32, 44, 56, 110, 18, 34, 50)} | {f"vgg{d}_bn" for d in (8, 11, 13, 16)}
    assert promised | {"wrn_10_1", "wrn_40_2", "lenet5", "lenet5_half", "mobilenet_v2"} <= set(ARCHITECTURES)


SMALL = ["resnet8", "resnet18", "resnet20_four_stages", "resnet50", "wrn_10_1", "vgg8_bn", "lenet5_half", "mobilenet_v2"]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 28, 28), (3, 33, 21), (4, 48, 40)])
def test_channels_size_and_classes_are_free(name: str, shape: tuple[int, int, int]) -> None:
    arguments = {"base_width": 8} if "resnet" in name or "vgg" in name or "wrn" in name else {}
    network = _build(name, _spec(*shape), classes=7, **arguments).eval()
    with torch.no_grad():
        logits = network(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_fresh_network_passes_images_through_at_a_sane_scale(name: str) -> None:
    arguments = {"base_width": 4} if name.startswith(("resnet", "vgg", "wrn")) else {}
    network = _build(name, _spec(3, 16, 16), **arguments).train()
    logits = network(torch.randn(16, 3, 16, 16))
    assert 0.01 < logits.std() < 30
    logits.square().sum().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_resnet18_keeps_four_pixels_of_thirty_two() -> None:
    network = _build("resnet18", base_width=4)
    assert network.get_submodule("blocks")(network.get_submodule("stem")(torch.randn(1, 3, 32, 32))).shape == (1, 32, 4, 4)


def test_option_a_shortcut_passes_every_second_pixel() -> None:
    block = _build("resnet8", shortcut="A").get_submodule("blocks.1")
    shortcut = block.get_submodule("shortcut")
    features = torch.randn(2, 16, 6, 6)
    assert torch.equal(shortcut(features)[:, 8:24], features[:, :, ::2, ::2])
    assert shortcut(features)[:, :8].abs().sum() == shortcut(features)[:, 24:].abs().sum() == 0


def test_wide_resnet_is_preactivated() -> None:
    """The shortcut of an unchanged shape passes the input itself, not its activation."""
    block = _build("wrn_16_1").get_submodule("blocks.1")
    with torch.no_grad():
        block.get_submodule("conv2").weight.zero_()
    features = torch.randn(2, 16, 5, 5)
    assert torch.equal(block(features), features)


def test_small_images_are_padded_with_zeros_as_lenet_does() -> None:
    network = _build("lenet5", _spec(1, 28, 28)).eval()
    wide = _build("lenet5", _spec(1, 32, 32)).eval()
    wide.load_state_dict(network.state_dict())
    images = torch.randn(3, 1, 28, 28)
    assert torch.equal(network(images), wide(torch.nn.functional.pad(images, (2, 2, 2, 2))))


def test_batchnorm_is_optional_in_lenet() -> None:
    assert find_layers(_classifier("lenet5")).visits == ()
    assert len(find_layers(_classifier("lenet5", batch_norm=True)).visits) == 3


def test_wide_resnet_of_any_depth_is_parsed_from_its_name() -> None:
    assert len(find_layers(_classifier("wrn_22_3", base_width=8)).visits) == 2 * 9 + 1


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("resnet21", {}, ["'resnet21'", "did you mean 'resnet"]),
        ("wrn_41_2", {}, ["41", "6n+4"]),
        ("resnet20", {"shortcutt": "A"}, ["shortcutt", "did you mean 'shortcut'"]),
        ("resnet20", {"shortcut": "C"}, ["arguments of resnet20.shortcut", "'C'"]),
        ("resnet20", {"depth": 56}, ["'depth'", "fixed by its name"]),
        ("torchvision:resnet51", {}, ["resnet51", "did you mean 'resnet50'"]),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, ["'weights'", "checkpoint"]),
        ("torchvision:resnet18", {"num_classes": 3}, ["'num_classes'", "leave it out"]),
        ("torchvision:resnet18", {"wings": 2}, ["torchvision:resnet18", "wings"]),
        ("torchvision:", {}, ["'torchvision:'"]),
        (":net", {}, ["':net'"]),
        ("no_such_package.nets:build", {}, ["no_such_package", "PYTHONPATH"]),
        ("os:system", {"command": "true"}, ["'os:system'", "part of Python"]),
        ("torch.nn:Lineer", {}, ["'Lineer'", "did you mean 'Linear'"]),
        ("torch.nn:Linear", {"in_featurs": 3}, ["'in_featurs'", "did you mean 'in_features'"]),
        ("torch.nn:Linear", {"in_features": 3}, ["torch.nn:Linear", "out_features"]),
        ("torch:ones", {"size": 1}, ["torch:ones"]),
    ],
)
def test_wrong_architecture_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, object], words: list[str]
) -> None:
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", "torch, torch.nn, no_such_package.nets,os")
    with pytest.raises(ConfigError) as caught:
        _build(name, **arguments)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.endswith((".", "?"))
    assert "\n" not in message


def test_torchvision_takes_three_channels_only() -> None:
    with pytest.raises(ConfigError, match="3 channels, these have 1"):
        _build("torchvision:resnet18", _spec(1))


def test_torchvision_network_gets_our_class_count() -> None:
    network = _build("torchvision:mobilenet_v3_small", classes=6).eval()
    assert network(torch.randn(1, 3, 64, 64)).shape == (1, 6)


def test_missing_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"distillery\[timm\]"):
        _build("timm:resnet18")


def test_timm_gets_channels_and_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text(
        textwrap.dedent("""
        from torch import nn

        def list_models():
            return ["resnetlet"]

        def create_model(model_name, pretrained, num_classes, in_chans, **kwargs):
            assert pretrained is False
            return nn.Sequential(nn.Conv2d(in_chans, num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    try:
        assert _build("timm:resnetlet", _spec(2), classes=5)(torch.randn(1, 2, 4, 4)).shape == (1, 5)
        with pytest.raises(ConfigError, match="did you mean 'resnetlet'"):
            _build("timm:resnetlt")
    finally:
        sys.modules.pop("timm", None)


def test_factory_of_ones_own_gets_arguments_and_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "outside_nets.py").write_text(
        textwrap.dedent("""
        from torch import nn

        def small(width, num_classes):
            return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

        def fixed():
            return nn.Flatten()

        def broken():
            raise RuntimeError("no such thing")
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DISTILLERY_ALLOW_MODULES", "outside_nets")
    assert _build("outside_nets:small", classes=9, width=4)(torch.randn(1, 3, 8, 8)).shape == (1, 9)
    assert isinstance(_build("outside_nets:fixed"), torch.nn.Flatten)
    with pytest.raises(ConfigError, match="RuntimeError: no such thing"):
        _build("outside_nets:broken")
    with pytest.raises(ConfigError, match="it takes: num_classes, width, did you mean 'width'"):
        _build("outside_nets:small", widht=4)


def test_own_sources_are_the_whole_package_or_the_file_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "whole_nets" / "inner").mkdir(parents=True)
    for name in ("whole_nets/inner/nets.py", "whole_nets/blocks.py", "alone_nets.py", "elsewhere.py"):
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    package, alone = (Architecture(name=name) for name in ("whole_nets.inner.nets:f", "alone_nets:f"))
    assert own_sources(Architecture(name="resnet8"), Architecture(name="torchvision:resnet18"), Architecture(name="timm:x")) == {}
    found = own_sources(alone, package, package)
    assert list(found) == ["alone_nets", "whole_nets"]
    check_own_sources(found)
    (tmp_path / "elsewhere.py").write_text("x = 2\n")
    assert own_sources(alone, package) == found
    for name, changed in {"whole_nets/blocks.py": "whole_nets", "alone_nets.py": "alone_nets"}.items():
        before = own_sources(alone, package)
        (tmp_path / name).write_text("x = 2\n")
        now = own_sources(alone, package)
        assert {key for key in now if now[key] != before[key]} == {changed}
        with pytest.raises(CheckpointMismatchError, match=f"source of the module '{changed}' has sha256 {now[changed]}, but"):
            check_own_sources(before)
    with pytest.raises(ConfigError, match="The module 'absent_nets', named by an architecture, has no file here"):
        own_sources(Architecture(name="absent_nets.deep:f"))


def test_integers_survive_the_way_through_kubeflow() -> None:
    there = Architecture(name="resnet20", arguments={"base_width": 16.0, "deep": {"list": [1.0, 2.5, True]}})
    assert there.arguments == {"base_width": 16, "deep": {"list": [1, 2.5, True]}}
    assert isinstance(there.arguments["base_width"], int)
    assert there.digest() == Architecture(name="resnet20", arguments={"base_width": 16, "deep": {"list": [1, 2.5, True]}}).digest()


def test_null_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match="is null"):
        Architecture.parse({"name": "resnet20", "arguments": {"base_width": None}})


def test_listing_imports_no_torch() -> None:
    code = "import sys, distillery.models.catalog, distillery.models.generators.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_row_names_a_class_with_a_config_beside_it() -> None:
    for row in ARCHITECTURES.values():
        module, name = row.implementation.split(":")
        loaded = __import__(module, fromlist=[name])
        assert issubclass(getattr(loaded, f"{name}Config"), Config)
