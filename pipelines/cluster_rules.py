"""Rules on what a cluster does with a task: how much of a node it gets, how often it is tried, what reaches its container.

Read in Kubeflow Pipelines 2.17's backend and in Argo Workflows 4.0; nothing of it shows on a local run.
"""

from collections.abc import Callable, Iterator
from typing import Any

from distillery_kfp.pipelines.compiled import Compiled, placeholders, values_of
from distillery_kfp.pipelines.resources import retry_window


def _resources_are_texts(compiled: Compiled) -> Iterator[str]:
    """What a resource refers to is a text: the driver reads a number as "", and then asks for no accelerator without a word."""
    for graph, name, task in compiled.executed():
        inputs = task.get("inputs", {}).get("parameters", {})
        for channel in sorted(set(_resource_channels(compiled, task))):
            kind, value = compiled.origin(graph, inputs.get(channel, {}))
            if kind != "STRING" and not (kind == "constant" and isinstance(value, str)):
                yield f"a resource of {name} is the {kind or 'unknown'} {value!r}, which the driver reads as empty: make it a STRING"


def _promises_reach_steps(compiled: Compiled) -> Iterator[str]:
    """A task with accelerators hands their number to its step, which refuses to work where it finds none."""
    for graph, name, task in compiled.executed():
        accelerator = compiled.container(task).get("resources", {}).get("accelerator")
        if not accelerator:
            continue
        inputs = task.get("inputs", {}).get("parameters", {})
        asked = [compiled.origin(graph, inputs.get(channel, {})) for channel in placeholders(str(accelerator.get("resourceCount", "")))]
        if "accelerators" not in inputs or [compiled.origin(graph, inputs["accelerators"])] != asked:
            yield f"{name} asks for accelerators, but its step does not take their number as `accelerators`"


def _retries_have_their_time(compiled: Compiled) -> Iterator[str]:
    """The window of all attempts covers the time limit of each and the waits; 3,600 s where nothing is said."""
    for _, name, task in compiled.executed():
        policy = task.get("retryPolicy", {})
        retries, limit = int(policy.get("maxRetryCount", 0)), int(compiled.settings(task).get("activeDeadlineSeconds", 0))
        window = float(policy.get("backoffMaxDuration", "3600s").removesuffix("s"))
        if retries and window < retry_window(retries, limit):
            yield f"{name} may be tried {retries + 1} times for {limit} s each, but no attempt runs beyond {window:.0f} s"


def _resource_channels(compiled: Compiled, task: dict[str, Any]) -> Iterator[str]:
    resources = compiled.container(task).get("resources", {})
    for key in ("resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit", "resourceType", "resourceCount"):
        for text in values_of(resources, key):
            yield from placeholders(text)


CLUSTER_RULES: tuple[Callable[[Compiled], Iterator[str]], ...] = (
    _resources_are_texts,
    _promises_reach_steps,
    _retries_have_their_time,
)
