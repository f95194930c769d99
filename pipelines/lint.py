"""Rules over compiled pipelines. Each catches something that kfp compiles without a word and that fails or hides in a cluster."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from distillery.errors import ConfigError
from distillery_kfp.pipelines.cluster_rules import CLUSTER_RULES
from distillery_kfp.pipelines.compiled import Compiled, iterated, tasks_below, values_of
from distillery_kfp.pipelines.deployment import IMAGE_VARIABLE, Deployment, faults_of
from distillery_kfp.pipelines.form import GROUPS, NAMES, check_name, literals, required
from distillery_kfp.pipelines.metadata import metadata

SIZE_BUDGET = 150_000
"""Bytes of one compiled file; the cluster keeps it in one object of at most 1 MiB beside the state of the run."""
PARAMETER_BUDGET = 10_000
"""Bytes of JSON that all parameters of a run may have together."""
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)


def lint(pipeline: str, text: str, deployment: Deployment | None = None) -> list[str]:
    """Every broken rule of a compiled file, one sentence each; empty where all hold.

    Args:
        pipeline: its name.
        text: the compiled file.
        deployment: the images that it was compiled for; None for the committed ones.
    """
    return broken_rules(Compiled.parse(pipeline, text, deployment))


def broken_rules(compiled: Compiled) -> list[str]:
    """As `lint`, of a pipeline that is taken apart already."""
    return [f"{rule.__name__.lstrip('_')}: {broken}" for rule in RULES for broken in rule(compiled)]


def _inputs_exist(compiled: Compiled) -> Iterator[str]:
    """A task may refer only to inputs of the graph around it (kfp 2.17 forgets resource parameters in groups)."""
    for graph, component in compiled.graphs():
        definitions = component.get("inputDefinitions", {})
        for kind, key in (("parameters", "componentInputParameter"), ("artifacts", "componentInputArtifact")):
            for name in set(values_of(component["dag"], key)) - set(definitions.get(kind, {})):
                yield f"{graph} has no input {name!r}"
    for _, name, task in compiled.tasks():
        declared = set(task.get("inputs", {}).get("parameters", {}))
        wanted = re.findall(r"inputs\.parameters\['(pipelinechannel--[^']+)'\]", json.dumps(compiled.container(task)))
        for channel in sorted(set(wanted) - declared):
            yield f"task {name} uses {channel!r} but does not take it"


def _platform_inputs_exist(compiled: Compiled) -> Iterator[str]:
    """The same for Kubernetes settings."""
    for graph, name, task in compiled.tasks():
        component = compiled.spec["root"] if graph == "root" else compiled.spec["components"][graph]
        known = set(component.get("inputDefinitions", {}).get("parameters", {}))
        for parameter in sorted(set(values_of(compiled.settings(task), "componentInputParameter")) - known):
            yield f"the Kubernetes settings of {name} use {parameter!r}, which {graph} does not have"
        for producer in sorted(set(values_of(compiled.settings(task), "producerTask")) - set(compiled.tasks_of(graph))):
            yield f"the Kubernetes settings of {name} use an output of {producer!r}, which {graph} does not have"


def _images_are_listed(compiled: Compiled) -> Iterator[str]:
    """Images are those of the table, under the name that metadata.yaml gives, whole with their host, and never move."""
    table = compiled.deployment.images
    for _, name, task in compiled.executed():
        image, step = compiled.container(task).get("image", ""), compiled.step(task)
        if step and image != table[metadata(step).image]:
            yield f"{name} runs in {image!r}, but the table of images says {table[metadata(step).image]!r}"
        if [image] != [row["value"] for row in compiled.container(task).get("env", []) if row["name"] == IMAGE_VARIABLE]:
            yield f"{name} runs in {image!r}, but its {IMAGE_VARIABLE} does not say so"
        if fault := faults_of(image):
            yield f"{name} runs in {image!r}, which {fault}"


def _parameters_read_well(compiled: Compiled) -> Iterator[str]:
    """A parameter has a default (the form refuses blanks) or is required, and a group's prefix; together they stay below the limit."""
    parameters = compiled.parameters()
    for name, definition in parameters.items():
        if name in required(compiled.pipeline):
            if "defaultValue" in definition or definition.get("isOptional"):
                yield f"parameter {name} may be left out, but no run works without it"
        elif definition.get("defaultValue") is None:
            yield f"parameter {name} has no default"
        if not name.startswith(GROUPS):
            yield f"parameter {name} has no prefix of {', '.join(GROUPS)}"
        if not definition.get("description"):
            yield f"parameter {name} has no description"
    size = len(json.dumps({name: definition.get("defaultValue") for name, definition in parameters.items()}))
    if size > PARAMETER_BUDGET:
        yield f"the defaults have {size} bytes, allowed are {PARAMETER_BUDGET}"


def _objects_are_named(compiled: Compiled) -> Iterator[str]:
    """A Secret or ConfigMap has a name in the form as it opens: without one Kubeflow's driver fails every task."""
    parameters = compiled.parameters()
    for name, kind in NAMES.items():
        try:
            check_name(name, kind, parameters.get(name, {}).get("defaultValue"))
        except ConfigError as error:
            yield str(error)
    referred = {name for settings in compiled.platform.values() for name in _names_of_objects(settings)}
    for name in sorted(referred - set(NAMES)):
        yield f"{name!r} names a Secret or ConfigMap, but no rule looks at it"


def _loops_and_conditions(compiled: Compiled) -> Iterator[str]:
    """No condition below a loop (false without a word), no loop below an exit handler, no loop over a named output at the root."""
    for graph, name, task in compiled.tasks():
        looping = "parameterIterator" in task or "artifactIterator" in task
        below = list(tasks_below(compiled, task))
        if looping and any("condition" in inner.get("triggerPolicy", {}) for inner in below):
            yield f"loop {name} holds a condition"
        if name.startswith("exit-handler") and any("parameterIterator" in inner or "artifactIterator" in inner for inner in below):
            yield f"exit handler {name} holds a loop"
        source = iterated(task)
        if graph == "root" and source.get("outputParameterKey", "Output") != "Output":
            yield f"loop {name} runs over the named output {source['outputParameterKey']!r}: put it in a nested pipeline"


def _accelerated_tasks_survive(compiled: Compiled) -> Iterator[str]:
    """A task with an accelerator has shared memory, a retry and a time limit."""
    for _, name, task in compiled.tasks():
        if "accelerator" not in compiled.container(task).get("resources", {}):
            continue
        settings = compiled.settings(task)
        if all(mount.get("mountPath") != "/dev/shm" for mount in settings.get("emptyDirMounts", [])):
            yield f"{name} has an accelerator but no /dev/shm"
        if not task.get("retryPolicy", {}).get("maxRetryCount"):
            yield f"{name} has an accelerator but no retry"
        if not int(settings.get("activeDeadlineSeconds", 0)):
            yield f"{name} has an accelerator but no time limit"


def _stays_small(compiled: Compiled) -> Iterator[str]:
    size = len(compiled.text.encode())
    if size > SIZE_BUDGET:
        yield f"the file has {size} bytes, allowed are {SIZE_BUDGET}"


def _caching_as_declared(compiled: Compiled) -> Iterator[str]:
    """Caching is decided in metadata.yaml: the flag given at submission does not reach nested graphs."""
    for _, name, task in compiled.tasks():
        step = compiled.step(task)
        flag = bool(task.get("cachingOptions", {}).get("enableCache", False))
        if step and flag != metadata(step).caching:
            yield f"{name} caches: {flag}, but its metadata.yaml says {metadata(step).caching}"


def _no_secret_values(compiled: Compiled) -> Iterator[str]:
    """Credentials enter by the name of a Secret, never by value."""
    for label, executor in compiled.spec["deploymentSpec"]["executors"].items():
        for variable in executor.get("container", {}).get("env", []):
            if _SECRET.search(variable["name"]) and variable.get("value"):
                yield f"{label} carries the value of {variable['name']}"
    for name, definition in compiled.parameters().items():
        if _SECRET.search(name) and name != "k8s_credentials" and definition.get("defaultValue"):
            yield f"parameter {name} carries a secret"


def _choices_are_literals(compiled: Compiled) -> Iterator[str]:
    parameters = compiled.parameters()
    for name, values in {**literals(compiled.pipeline), **compiled.deployment.choices}.items():
        definition = parameters.get(name, {})
        if definition.get("literals") != list(values):
            yield f"parameter {name} does not offer its {len(values)} choices"
        if definition.get("defaultValue") not in values:
            yield f"the default {definition.get('defaultValue')!r} of {name} is no choice"


def _names_of_objects(settings: dict[str, Any]) -> Iterator[str]:
    """Parameters of the run that name a Secret or ConfigMap in a task's settings; channels of a group count as what they carry."""
    for references in settings.values():
        for reference in references if isinstance(references, list) else []:
            for key in ("secretNameParameter", "configMapNameParameter"):
                yield from (name.removeprefix("pipelinechannel--") for name in values_of(reference.get(key, {}), "componentInputParameter"))


RULES: tuple[Callable[[Compiled], Iterator[str]], ...] = (
    _inputs_exist,
    _platform_inputs_exist,
    _images_are_listed,
    _parameters_read_well,
    _objects_are_named,
    _loops_and_conditions,
    _accelerated_tasks_survive,
    _stays_small,
    _caching_as_declared,
    _no_secret_values,
    _choices_are_literals,
    *CLUSTER_RULES,
)
