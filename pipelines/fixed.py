"""What only a compiled file can say of a task's pod, put in as kfp would have written it: Kubeflow has no parameters for it."""

from typing import Any

from distillery.placement.profiles import Fixed
from distillery_kfp.pipelines.metadata import component_of, metadata

Document = dict[str, Any]
QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
GROUP = 0
"""Of the user that a container runs as: images leave their folders writable to it, whatever the user's number is."""


def fix(spec: Document, settings: Document, fixed: Fixed) -> None:
    """Put what a profile fixes into both documents of a compiled pipeline.

    Args:
        spec: the first document.
        settings: the second.
        fixed: of the profile that it is compiled for.
    """
    for label, executor in spec["deploymentSpec"]["executors"].items():
        platform = settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]
        size = metadata(component_of(label)).size
        if size == "first":
            executor["container"]["resources"], nodes = plan_room(fixed)
            platform.update(nodes)
        platform.update(pod_settings(fixed, size))


def pod_settings(fixed: Fixed, size: str) -> Document:
    """What a profile fixes of the Kubernetes settings of every task of a size."""
    found: Document = {}
    if fixed.user:
        found["securityContext"] = {"runAsGroup": str(GROUP), "runAsNonRoot": True, "runAsUser": str(fixed.user)}
    labels = {QUEUE_LABEL: fixed.queue, PRIORITY_LABEL: fixed.priority}
    if labels := {name: value for name, value in labels.items() if value}:
        found["podMetadata"] = {"labels": labels}
    if fixed.pull_secrets:
        found["imagePullSecret"] = [
            {"secretName": name, "secretNameParameter": {"runtimeValue": {"constant": name}}} for name in fixed.pull_secrets
        ]
    if expressions := getattr(fixed.affinity, "plan" if size == "first" else size):
        found["nodeAffinity"] = [{"matchExpressions": [each.model_dump(mode="json", exclude_defaults=True) for each in expressions]}]
    return found


def plan_room(fixed: Fixed) -> tuple[Document, Document]:
    """What the first step asks for, and the Kubernetes settings that say on which nodes."""
    room, values = fixed.plan, fixed.plan.values()
    resources = {
        "resourceCpuLimit": room.cpu_limit,
        "resourceCpuRequest": room.cpu_request,
        "resourceMemoryLimit": room.memory_limit,
        "resourceMemoryRequest": room.memory_request,
    }
    nodes: Document = {}
    if values["node_selector"]:
        nodes["nodeSelector"] = {"labels": values["node_selector"]}
    if values["tolerations"]:
        nodes["tolerations"] = [_as_kfp(toleration) for toleration in values["tolerations"]]
    return resources, nodes


def _as_kfp(toleration: Document) -> Document:
    """Numbers of 64 bits are texts in the JSON of kfp's messages."""
    return {name: str(value) if name == "tolerationSeconds" else value for name, value in toleration.items()}
