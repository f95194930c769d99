"""Hardware is resolved once, and what cannot run is refused in one sentence."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from distillery.errors import ConfigError
from distillery.models.catalog import Architecture, build_network
from distillery.runtime import Runtime, cpu_limit, keep_freed_memory, resolve_runtime
from distillery.types import ImageSpec

SPEC = ImageSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.3,))


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ({"device": "gpu"}, "auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "auto, cpu, cuda or cuda:N"),
        ({"precision": "float16"}, "auto, float32 or bfloat16"),
        ({"threads": -1}, "0 .torch's choice. or more"),
    ],
)
def test_what_is_not_allowed_is_named(arguments: dict[str, str | int], allowed: str) -> None:
    with pytest.raises(ConfigError, match=allowed):
        resolve_runtime(**arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_named() -> None:
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        resolve_runtime("cuda")


def test_auto_resolves_to_what_is_here() -> None:
    runtime = resolve_runtime()
    assert runtime.precision in ("float32", "bfloat16")
    assert runtime.threads == torch.get_num_threads()
    assert runtime.key_fields() == {"device": runtime.device.type, "precision": runtime.precision}


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, 0),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0),
        ({"cpu.max": "broken"}, 0),
        ({"cpu.max": "100 0"}, 0),
        ({}, 0),
    ],
)
def test_the_cpu_limit_of_a_container(files: dict[str, str], limit: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_limit(tmp_path) == limit


@pytest.mark.parametrize(("limit", "threads", "expected"), [(2, 0, 2), (0, 0, 3), (8, 0, 3), (2, 5, 5)])
def test_threads_stay_below_the_cpu_limit_unless_they_are_chosen(
    limit: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("distillery.runtime.cpu_limit", lambda: limit)
    try:
        torch.set_num_threads(3)
        assert resolve_runtime("cpu", threads=threads).threads == expected
    finally:
        torch.set_num_threads(before)


def test_autocast_is_what_the_precision_says() -> None:
    layer, values = nn.Linear(2, 2), torch.ones(1, 2)
    with Runtime(torch.device("cpu"), "bfloat16", 1).autocast():
        assert layer(values).dtype == torch.bfloat16
    with Runtime(torch.device("cpu"), "float32", 1).autocast():
        assert layer(values).dtype == torch.float32


def test_weights_are_placed_channels_last() -> None:
    placed = resolve_runtime("cpu").place(nn.Conv2d(4, 4, 3))
    assert placed.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_convolution_that_corrupts_memory_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Conv2d(7, 14, 1, stride=2))
    with pytest.raises(ConfigError, match=r"'1' is a 1x1 convolution of stride 2 on 7 channels"):
        resolve_runtime("cpu").place(network)


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1"])
@pytest.mark.parametrize("width", [2, 4])
def test_narrow_networks_of_ours_have_right_gradients_in_channels_last_order(name: str, width: int) -> None:
    arguments = {"base_width": width}
    torch.manual_seed(0)
    placed = resolve_runtime("cpu").place(build_network(Architecture(name=name, arguments=arguments), SPEC, 3))
    plain = build_network(Architecture(name=name, arguments=arguments), SPEC, 3).double()
    plain.load_state_dict(placed.state_dict())
    for _ in range(5):
        images = torch.rand(8, 1, 8, 8)
        for network, values in ((placed, images), (plain, images.double())):
            network.zero_grad()
            network(values).square().sum().backward()
        for ours, exact in zip(placed.parameters(), plain.parameters(), strict=True):
            assert ours.grad is not None
            assert exact.grad is not None
            torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-3, atol=1e-3 * float(exact.grad.abs().max()) + 1e-6)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_kept_for_the_next_tensor(kept: bool) -> None:
    code = f"""
import resource, torch
from distillery.runtime import keep_freed_memory
assert not {kept} or keep_freed_memory()
def faults():
    torch.ones(256, 32, 32, 33)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):  # aligned blocks fit into what was freed only after some
    before = faults()
for _ in range(5):
    after = faults()
print(after - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pages = 5 * 256 * 32 * 32 * 33 * 4 // os.sysconf("SC_PAGE_SIZE")
    assert (int(done.stdout) < pages / 4) == kept


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory.__wrapped__()
