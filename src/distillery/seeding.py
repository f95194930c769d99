"""Random streams by name: every part of a run draws from its own, so that adding a draw in one never shifts another."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MAX_SEED = 2**53 - 1  # larger integers do not survive the float that Kubeflow makes of them


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed below 2^53 for the stream `names` of run seed `seed`; equal arguments give equal seeds on every machine."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & MAX_SEED


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own on `device` for the stream `names`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Run a block that draws from torch's global CPU stream (module initialisation) reproducibly, and restore the stream after it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *names))
        yield
