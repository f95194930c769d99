"""A tiny teacher that nobody trained, its test images, and recipes small enough to run whole pipelines in seconds."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kfp.dsl import pipeline_task

from distillery.models.bundle import save_classifier
from distillery.models.catalog import Architecture, build_network
from distillery.provenance import Provenance, code_version
from distillery.types import Classifier, ImageSpec

ONLINE = """
extends: fast_dfkd/digits
expects: {channels: 1, height: 8, width: 8, classes: 3}
synthesis:
  rounds: 3
  checkpoint_every: 1
  student_steps_per_turn: 2
  config: {batch: 8, steps: 1, warmup: 1, generator: {latent: 8, width: 8}}
student: {architecture: {name: resnet8, arguments: {base_width: 8}}, stages: {0: {epochs: 2, steps_per_epoch: 2, batch: 8}}}
evaluation: {latency: false}
"""
OFFLINE = """
extends: ls_gdfd/digits
expects: {channels: 1, height: 8, width: 8, classes: 3}
synthesis: {rounds: 3, config: {batch: 8, steps_per_round: 2, generator: {latent: 8, width: 8}}}
set: {size: 24, batch: 8, shard_images: 8}
student: {architecture: {name: resnet8, arguments: {base_width: 8}}, stages: {0: {epochs: 2, batch: 8}}}
evaluation: {latency: false}
"""

ENSEMBLE = """
extends: offline.yaml
synthesis: {generators: 3, shard_memory_gib: 0.002, config: {generator: {latent: 6, width: 4}}}
"""  # two of the three in one shard

# kfp asks for the sources of the whole stack to learn its caller's name, which takes seconds where a test process has imported much
pipeline_task.inspect = SimpleNamespace(stack=lambda: [None, (None, None, None, sys._getframe(2).f_code.co_name)])


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with teacher/, test.npz, online.yaml, offline.yaml and ensemble.yaml."""
    folder = tmp_path_factory.mktemp("desk")
    spec = ImageSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
    architecture = Architecture(name="wrn_10_1")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(build_network(architecture, spec, 3), spec, ("a", "b", "c"))
    save_classifier(folder / "teacher", classifier, architecture, Provenance(code_version=code_version()))
    images = np.random.default_rng(0).integers(0, 255, (30, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "test.npz", images=images, labels=np.arange(30) % 3)
    (folder / "online.yaml").write_text(ONLINE)
    (folder / "offline.yaml").write_text(OFFLINE)
    (folder / "ensemble.yaml").write_text(ENSEMBLE)
    return folder
