"""The registered student in a process that knows nothing of Distillery: loaded by pyfunc without pickle, equal to its bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chains import Chain
from distillery.models.bundle import load_classifier
from distillery.models.export import random_images
from mlflow_servers import MlflowServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

IMAGES = 1000
LOAD = """
import json, sys
import numpy as np
import mlflow
uri, images, logits = sys.argv[1:]
model = mlflow.pyfunc.load_model(uri)
batch = np.load(images)
found = np.concatenate([model.predict(batch[:1]), model.predict(batch[1:])])
np.save(logits, found)
inputs, outputs = (getattr(model.metadata.signature, side).to_dict()[0]["tensor-spec"] for side in ("inputs", "outputs"))
example = model.input_example
native = mlflow.pytorch.load_model(uri)
names = sorted(name for name in sys.modules if name.partition(".")[0] in ("distillery", "distillery_kfp"))
facts = {"inputs": inputs, "outputs": outputs, "example": list(example.shape), "dtype": str(example.dtype), "ours": names}
print(json.dumps({**facts, "native": type(native).__name__, "answer": list(model.predict(example).shape)}))
"""


def load_and_compare(chain: Chain, uri: str, environment: dict[str, str]) -> tuple[dict[str, object], float]:
    """What a fresh process says of the model, and the largest difference of its logits from the bundle's on `IMAGES` images."""
    images = random_images(IMAGES, (1, 8, 8)).float() / 255
    given, taken = chain.folder / "images.npy", chain.folder / "logits.npy"
    np.save(given, images.numpy())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_", "DISTILLERY_", "KFP_"))}
    chosen = {**kept, **environment, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-P", "-c", LOAD, uri, str(given), str(taken)]
    done = subprocess.run(command, capture_output=True, text=True, env=chosen, cwd=chain.folder, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with torch.no_grad():
        expected = load_classifier(chain.student).freeze()(images).numpy()
    return json.loads(done.stdout.splitlines()[-1]), float(np.abs(np.load(taken) - expected).max())


def check(chain: Chain, uri: str, environment: dict[str, str]) -> None:
    facts, difference = load_and_compare(chain, uri, environment)
    assert facts["inputs"] == {"dtype": "float32", "shape": [-1, 1, 8, 8]}
    assert facts["outputs"] == {"dtype": "float32", "shape": [-1, 3]}
    assert (facts["example"], facts["dtype"], facts["answer"]) == ([1, 1, 8, 8], "float32", [1, 3])
    assert facts["ours"] == []
    assert "GraphModule" in str(facts["native"])
    assert difference < 1e-5


def test_a_version_in_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    chain = Chain(tmp_path, "fast_dfkd/digits", str(tmp_path / "store")).make()
    check(chain, "models:/distillery-student@champion", {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"})


def test_a_version_on_a_server(mlflow_server: MlflowServer, served_chain: Chain) -> None:
    check(served_chain, "models:/distillery-student/1", {"MLFLOW_TRACKING_URI": mlflow_server.uri})
