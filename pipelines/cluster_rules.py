"""Rules on what a cluster does with a task: how much of a node it gets, how often it is tried, what reaches its container.

Read in Kubeflow Pipelines 2.17's backend and in Argo Workflows 4.0; nothing of it shows on a local run.
"""

from collections.abc import Callable, Iterator
from typing import Any

from distillery.placement.pools import fields_of
from distillery_kfp.pipelines.compiled import Compiled, ValueOrigin, placeholders, values_of
from distillery_kfp.pipelines.fixed import plan_room, pod_settings
from distillery_kfp.pipelines.form import profiles_of
from distillery_kfp.pipelines.metadata import metadata
from distillery_kfp.pipelines.resources import retry_window
from distillery_kfp.pipelines.variables import SCRATCH_MOUNT, VARIABLES, keys_of

_BOUNDS = ("resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit")


def _resources_are_texts(compiled: Compiled) -> Iterator[str]:
    """What a resource refers to is a text: the driver reads a number as "", and then asks for no accelerator without a word."""
    for graph, name, task in compiled.executed():
        inputs = task.get("inputs", {}).get("parameters", {})
        for channel in sorted(set(_resource_channels(compiled, task))):
            found = compiled.origin(graph, inputs.get(channel, {}))
            if not found.is_text:
                yield f"a resource of {name} is the {found}, which the driver reads as empty: make it a STRING"


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


def _places_come_from_the_plan(compiled: Compiled) -> Iterator[str]:
    """A task is given what the plan says of the size of its step, and the plan, before which nobody could choose, what is written there."""
    for graph, name, task in compiled.executed():
        if not (step := compiled.step(task)):
            continue
        size = metadata(step).size
        wanted = set() if size == "first" else {f"plan.{size}_{field}" for field in fields_of(size)}
        found = {str(origin.name) for origin in _places(compiled, graph, task)}
        for missing in sorted(wanted - found):
            yield f"{name} is {size}, but is not given {missing}"
        for foreign in sorted(found - wanted):
            yield f"{name} is {size}, but is given {foreign or 'a constant'}"


def _fixed_as_chosen(compiled: Compiled) -> Iterator[str]:
    """User, queue, priority, pull secrets and affinity are those of the profiles that the form offers, which the plan knows."""
    fixed = compiled.deployment.fixed
    for _, name, task in compiled.executed():
        if not (step := compiled.step(task)):
            continue
        wanted, settings = pod_settings(fixed, metadata(step).size), compiled.settings(task)
        for key in ("securityContext", "podMetadata", "imagePullSecret", "nodeAffinity"):
            if settings.get(key) != wanted.get(key):
                yield f"{name} has the {key} {settings.get(key)}, but the profiles fix {wanted.get(key)}"
        if step == "plan":
            yield from _plan_as_chosen(compiled, name, task)


def _plan_as_chosen(compiled: Compiled, name: str, task: dict[str, Any]) -> Iterator[str]:
    resources, settings = plan_room(compiled.deployment.fixed)
    if compiled.container(task).get("resources") != resources:
        yield f"{name} asks for {compiled.container(task).get('resources')}, but the profiles fix {resources}"
    for key in ("nodeSelector", "tolerations"):
        if compiled.settings(task).get(key) != settings.get(key):
            yield f"{name} has the {key} {compiled.settings(task).get(key)}, but the profiles fix {settings.get(key)}"
    if profiles_of(compiled.spec) != compiled.deployment.own_profiles:
        yield f"{name} does not know the profiles that the form offers"


def _retries_have_their_time(compiled: Compiled) -> Iterator[str]:
    """The window of all attempts covers the time limit of each and the waits; 3,600 s where nothing is said."""
    for _, name, task in compiled.executed():
        policy = task.get("retryPolicy", {})
        retries, limit = int(policy.get("maxRetryCount", 0)), int(compiled.settings(task).get("activeDeadlineSeconds", 0))
        window = float(policy.get("backoffMaxDuration", "3600s").removesuffix("s"))
        if retries and window < retry_window(retries, limit):
            yield f"{name} may be tried {retries + 1} times for {limit} s each, but no attempt runs beyond {window:.0f} s"


def _every_task_is_bounded(compiled: Compiled) -> Iterator[str]:
    """Every task asks for CPU and memory and has limits to them, and no volume of its pod may fill the node."""
    for _, name, task in compiled.executed():
        resources = compiled.container(task).get("resources", {})
        for missing in [bound for bound in _BOUNDS if not resources.get(bound)]:
            yield f"{name} has no {missing}"
        for mount in compiled.settings(task).get("emptyDirMounts", []):
            if not mount.get("sizeLimit"):
                yield f"{name} mounts {mount['mountPath']} without a size limit"


def _scratch_is_a_volume(compiled: Compiled) -> Iterator[str]:
    """The workspace, its read cache and temporary files lie on a disk volume of limited size: kfp 2.17 limits no other writing."""
    for _, name, task in compiled.executed():
        mounts = [mount for mount in compiled.settings(task).get("emptyDirMounts", []) if mount.get("medium") != "Memory"]
        if SCRATCH_MOUNT not in [mount["mountPath"] for mount in mounts]:
            yield f"{name} has no volume at {SCRATCH_MOUNT}"
        values = {variable["name"]: variable.get("value") for variable in compiled.container(task).get("env", [])}
        for variable in ("DISTILLERY_WORKDIR", "TMPDIR"):
            if not f"{values.get(variable)}/".startswith(f"{SCRATCH_MOUNT}/"):
                yield f"{name} has {variable} = {values.get(variable)!r}, which is not below {SCRATCH_MOUNT}"


def _store_is_required(compiled: Compiled) -> Iterator[str]:
    """A pod whose ConfigMap does not name the store does not start: it would work for nothing."""
    for _, name, task in compiled.executed():
        named = [
            reference.get("optional", False)
            for reference in compiled.settings(task).get("configMapAsEnv", [])
            if "DISTILLERY_STORE" in [pair["envVar"] for pair in reference["keyToEnv"]]
        ]
        if named != [False]:
            yield f"{name} {'may start without its store' if named else 'is told of no store'}: make that reference required, and one only"


def _variables_arrive(compiled: Compiled) -> Iterator[str]:
    """Every variable of the table comes into every pod, under its key."""
    for _, name, task in compiled.executed():
        settings = compiled.settings(task)
        for reference, key, wanted in (
            ("configMapAsEnv", "configMapKey", {**keys_of("config map"), **keys_of("config map", required=True)}),
            ("secretAsEnv", "secretKey", keys_of("secret")),
        ):
            found = {pair.get(key): pair["envVar"] for each in settings.get(reference, []) for pair in each["keyToEnv"]}
            for missing in sorted(set(wanted.items()) - set(found.items())):
                yield f"{name} does not get {missing[1]} by the key {missing[0]!r}"
        values = {variable["name"]: variable.get("value") for variable in compiled.container(task).get("env", [])}
        for row in VARIABLES.values():
            if row.value and values.get(row.name) != row.value:
                yield f"{name} has {row.name} = {values.get(row.name)!r}, but the table says {row.value!r}"


def _places(compiled: Compiled, graph: str, task: dict[str, Any]) -> Iterator[ValueOrigin]:
    """Where everything comes from that says what a task gets of which node."""
    inputs = task.get("inputs", {}).get("parameters", {})
    for channel in _resource_channels(compiled, task):
        yield compiled.origin(graph, inputs.get(channel, {}))
    settings = compiled.settings(task)
    selector, tolerations = settings.get("nodeSelector", {}), settings.get("tolerations", ())
    for reference in (selector.get("nodeSelectorJson"), *(row.get("tolerationJson") for row in tolerations)):
        if reference:
            yield compiled.origin(graph, reference)


def _resource_channels(compiled: Compiled, task: dict[str, Any]) -> Iterator[str]:
    resources = compiled.container(task).get("resources", {})
    for key in (*_BOUNDS, "resourceType", "resourceCount"):
        for text in values_of(resources, key):
            yield from placeholders(text)


CLUSTER_RULES: tuple[Callable[[Compiled], Iterator[str]], ...] = (
    _resources_are_texts,
    _promises_reach_steps,
    _places_come_from_the_plan,
    _fixed_as_chosen,
    _retries_have_their_time,
    _every_task_is_bounded,
    _scratch_is_a_volume,
    _store_is_required,
    _variables_arrive,
)
