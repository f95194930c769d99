"""The chart as tests see it: rendered in this process by Helm's library, or by its command line; and values for every part of it."""

import json
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

Document = dict[str, Any]

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts/distillery"
NAMESPACE, RELEASE = "vision", "team"
LEAST: Document = {"settings": {"values": {"store": "s3://models/distillery"}}, "images": {"registry": "registry.example.net/team"}}
"""The fewest values with which the chart can be installed."""
WEEKLY: Document = {
    "name": "weekly",
    "pipeline": "generative-distillation",
    "cron": "0 0 3 * * 1",
    "no_catchup": True,
    "parameters": {"teacher_uri": "s3://models/digits/teacher"},
}
_MLFLOW = {
    "mlflow": {
        "enabled": True,
        "image": "registry.example.net/team/mlflow:3.17.2",
        "artifactsDestination": "s3://models/mlflow",
        "auth": {"existingSecret": "mlflow-admin"},
    }
}
VARIANTS: dict[str, Document] = {
    "least": {},
    "keys": {"credentials": {"values": {"s3_access_key": "a", "s3_secret_key": "b"}}, "settings": {"files": {"ca.crt": "-"}}},
    "theirs": {"settings": {"existingConfigMap": "their-settings", "values": None}, "credentials": {"existingSecret": "their-keys"}},
    "no account": {"runner": {"serviceAccount": {"create": False}}, "registrar": {"serviceAccount": {"create": False}}},
    "role of a cloud": {"runner": {"serviceAccount": {"annotations": {"example.net/role": "reader"}}}},
    "plugin": {"runner": {"mlflowKubernetesAuth": True}, "pluginCredentials": {"values": {"token": "t"}}},
    "shared": {"kubeflow": {"multiUser": True}},
    "nothing registered": {"registration": {"enabled": False}, "closing": {"enabled": False}, "tests": {"enabled": False}, "images": None},
    "schedules": {
        "registration": {"schedules": [WEEKLY], "reconcile": {"enabled": True}, "disableOnUninstall": True},
        "images": {"pullSecrets": ["team-registry"], "table": {"gpu": "registry.example.net/team/nets-gpu-python:1.0.0"}},
    },
    "dry run": {"registration": {"dryRun": True}, "kubeflow": {"endpoint": "https://kubeflow.example.net/pipeline"}},
    "launcher": {
        "launcher": {
            "create": True,
            "defaultPipelineRoot": "s3://models/kubeflow",
            "providers": {"s3": {"default": {"endpoint": "s3.example.net", "credentials": {"fromEnv": True}}}},
        }
    },
    "network": {
        "networkPolicy": {
            "enabled": True,
            "apiServerCidrs": ["10.0.0.1/32"],
            "extraEgress": [{"ports": [{"protocol": "TCP", "port": 443}], "to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}],
        },
        **_MLFLOW,
    },
    "network anywhere": {"networkPolicy": {"enabled": True, "objectStorePorts": []}},
    "limits": {"resourceQuota": {"enabled": True}, "limitRange": {"enabled": True}},
    "priority": {"priorityClass": {"enabled": True, "preemptionPolicy": "PreemptLowerPriority"}, **_MLFLOW},
    "mlflow": _MLFLOW,
    "mlflow postgres": {"mlflow": {**_MLFLOW["mlflow"], "database": {"existingSecret": "mlflow-database"}, "serviceAccountName": "mlflow"}},
    "mlflow open": {
        "mlflow": {
            **_MLFLOW["mlflow"],
            "auth": {"enabled": False},
            "allowedHosts": ["mlflow.example.net"],
            "database": {"storageClass": "fast"},
        }
    },
}
"""Values by what they turn on, beside the fewest."""


def values(variant: Document) -> Document:
    """The fewest values with others over them; None takes one away."""
    return over(deepcopy(LEAST), variant)


def render(given: Document) -> list[Document]:
    """What Helm's library makes of values, as documents; raises its error where it refuses them."""
    rendered = Chart.load(str(CHART)).render(given, name=RELEASE, namespace=NAMESPACE)
    return [found for path, text in rendered.items() if path.endswith(".yaml") for found in yaml.safe_load_all(text) if found]


def notes(given: Document) -> str:
    """What Helm says after an installation."""
    text: str = Chart.load(str(CHART)).render(given, name=RELEASE, namespace=NAMESPACE)["distillery/templates/NOTES.txt"]
    return text


def objects(given: Document) -> dict[tuple[str, str], Document]:
    """The rendered documents by kind and name."""
    found = {(document["kind"], document["metadata"]["name"]): document for document in render(given)}
    assert len(found) == len(render(given)), "two objects have one name"
    return found


def helm_program() -> str | None:
    """Helm's command line: of .ci/helm, else of the path."""
    own = ROOT / ".helm/helm"
    return str(own) if own.exists() else shutil.which("helm")


def run_helm(program: str, verb: str, *words: str, given: Document, folder: Path) -> subprocess.CompletedProcess[str]:
    """One call of the command line with values in a file, and a HOME of its own."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(given))  # JSON is YAML
    command = [program, verb, *words, str(CHART), "--values", str(file), "--namespace", NAMESPACE]
    return subprocess.run(command, env={"HOME": str(folder)}, capture_output=True, text=True, check=False)


def pods(documents: list[Document]) -> dict[str, Document]:
    """The pod specifications of all that runs, by kind and name."""
    found = {}
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        pod = spec if document["kind"] == "Pod" else spec.get("template", {}).get("spec")
        if pod:
            found[f"{document['kind']} {document['metadata']['name']}"] = pod
    return found


def over(below: Document, above: Document) -> Document:
    """Values with others over them, in place; None takes one away."""
    for key, value in above.items():
        if value is None:
            below.pop(key, None)
        else:
            below[key] = over(dict(below.get(key, {})), value) if isinstance(value, dict) else value
    return below
