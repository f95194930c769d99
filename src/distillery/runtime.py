"""What depends on the hardware: device, precision, threads and memory, resolved once by the step that runs there."""

import ctypes
import functools
import os
import platform
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from distillery.errors import ConfigError
from distillery.types import Classifier

# mallopt's numbers for the two settings, from malloc.h, and the largest block that they may be set to
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _KEPT_BYTES = -1, -3, 2**31 - 1

Precision = Literal["auto", "float32", "bfloat16"]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Runtime:
    """Resolved hardware fields; they enter a step's key, because they change its bytes."""

    device: torch.device
    precision: Literal["float32", "bfloat16"]
    threads: int

    def autocast(self) -> AbstractContextManager[None]:
        """Autocast to bfloat16 where the precision says so, else nothing."""
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def place(self, module: M) -> M:
        """Move a module to the device, its 4-d weights in channels-last order; those of a contiguous classifier in plain order.

        Raises:
            ConfigError: a convolution whose CPU kernel corrupts memory.
        """
        if self.device.type == "cpu":
            _refuse_corrupting(module)
        if isinstance(module, Classifier) and module.memory_format == "contiguous":
            return _straighten(module.to(device=self.device))
        placed: M = module.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed

    def key_fields(self) -> dict[str, str]:
        """The fields that enter a step's key: another device or precision is other work; another thread count only warns."""
        return {"device": self.device.type, "precision": self.precision}


def resolve_runtime(device: str = "auto", precision: str = "auto", threads: int = 0) -> Runtime:
    """Resolve `auto` on this machine, set torch's thread count, and on a CPU call `keep_freed_memory`.

    Args:
        device: auto | cpu | cuda | cuda:N. auto is cuda where it is available.
        precision: auto | float32 | bfloat16. auto is bfloat16 where the hardware has it natively.
        threads: CPU threads of one process; 0 leaves torch's own choice, but no more than the container's CPU limit, of which torch
            knows nothing: 64 threads that share 4 CPUs stand still most of the time.

    Raises:
        ConfigError: an unknown device or precision, or cuda where there is none.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"precision = {precision!r} is not allowed: choose auto, float32 or bfloat16.")
    if threads < 0:
        raise ConfigError(f"threads = {threads} is not allowed: give 0 (torch's choice) or more.")
    if limit := threads or min(cpu_limit(), torch.get_num_threads()):
        torch.set_num_threads(limit)
    chosen = _resolve_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    if precision == "auto":
        precision = "bfloat16" if has_native_bfloat16(chosen) else "float32"
    return Runtime(chosen, "bfloat16" if precision == "bfloat16" else "float32", torch.get_num_threads())


def cpu_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole CPUs that this container may use at once, at least 1; 0 where nothing limits it.

    Args:
        root: of the control groups, of the second version or the first.
    """
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return 0
    # "max" or -1 limits nothing
    return max(1, int(quota) // int(period)) if quota.isdecimal() and period.isdecimal() and int(period) else 0


def memory_here(device: torch.device, root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that a device has in all; of a CPU, what the machine or this container's limit gives, whichever is less.

    Args:
        device: of this machine.
        root: of the control groups, of the second version or the first.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            found.append(int(path.read_text()))  # "max" limits nothing
    return min(found)


@functools.cache
def keep_freed_memory() -> bool:
    """Let the process keep large freed blocks for its next tensors, instead of handing each back to the kernel.

    glibc maps every block above 32 MiB anew, such as 256 feature maps of 32 channels and 32 x 32 pixels in float32, and the kernel
    fills it with zeros page by page: that was a third of a teacher's forward pass. The process stays as large as it ever was.

    Returns:
        Whether the C library took it; one that is not glibc has no such setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    c_library = ctypes.CDLL(None)
    return all(bool(c_library.mallopt(setting, _KEPT_BYTES)) for setting in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def _refuse_corrupting(module: nn.Module) -> None:
    """Refuse what PyTorch's CPU backward (2.15, AVX2) writes outside its memory for: it may give wrong weights before it crashes."""
    for path, part in module.named_modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and max(part.stride) > 1 and part.in_channels < 8:
            raise ConfigError(
                f"The layer {path!r} is a 1x1 convolution of stride {max(part.stride)} on {part.in_channels} channels, whose backward pass "
                "corrupts memory on CPUs: give it 8 channels or more, or take every second pixel before a convolution of stride 1."
            )


def _straighten(module: M) -> M:
    """Give every tensor of a module the plain order: a copy even where torch calls it contiguous, since strides of a size of 1 are free."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return module


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions run in hardware there, rather than through float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device = {device!r} is not allowed: choose auto, cpu, cuda or cuda:N.")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device = {device!r} was asked for, but torch sees no CUDA device here: choose cpu or auto.")
    return chosen
