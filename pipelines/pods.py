"""Each task's pod as a cluster is asked for it: a compiled pipeline and a run's values, put together by the rules of Kubeflow's driver.

Read in the backend of 2.17, `v2/driver/driver.go`, `k8s.go` and the executor template of `argocompiler/container.go`. Left out is what only
a cluster knows: the launcher's flags, its init container and Argo's two containers, proxies, and what an administrator sets for all.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillery.config import nearest
from distillery.errors import ConfigError
from distillery.placement.amounts import read_cpu, read_memory
from distillery.placement.profiles import choose_placement
from distillery_kfp.pipelines.compiled import Compiled, documents_of, not_compiled, placeholders, read_file
from distillery_kfp.pipelines.form import ALL, check_form, profiles_of

Document = dict[str, Any]

LAUNCHER = "/kfp-launcher"
_SCRATCH = {"kfp-launcher": LAUNCHER, "gcs-scratch": "/gcs", "s3-scratch": "/s3", "minio-scratch": "/minio"}
_SCRATCH |= {f"dot-{name}-scratch": f"/.{name}" for name in ("local", "cache", "config")}
_AMOUNTS = (
    ("resourceCpuRequest", "requests", "cpu", read_cpu),
    ("resourceCpuLimit", "limits", "cpu", read_cpu),
    ("resourceMemoryRequest", "requests", "memory", read_memory),
    ("resourceMemoryLimit", "limits", "memory", read_memory),
)
_RENDERED = {
    "activeDeadlineSeconds",
    "configMapAsEnv",
    "configMapAsVolume",
    "emptyDirMounts",
    "fieldPathAsEnv",
    "imagePullSecret",
    "nodeAffinity",
    "nodeSelector",
    "podMetadata",
    "secretAsEnv",
    "securityContext",
    "tolerations",
}


def read_package(path: Path) -> Compiled:
    """A file of `distillery compile`, taken apart.

    Raises:
        MissingResourceError: there is no such file.
        ConfigError: it is no compiled pipeline of ours.
    """
    documents = documents_of(data := read_file(path), path)
    name = str(documents[0]["pipelineInfo"]["name"]).replace("-", "_")
    if len(documents) != 2 or name not in ALL:
        raise not_compiled(path)
    try:
        return Compiled.of(name, data.decode(), *documents)
    except (UnicodeDecodeError, LookupError, TypeError):
        raise not_compiled(path) from None


def render_pods(compiled: Compiled, given: Mapping[str, Any]) -> list[Document]:
    """The pods of a run; of a loop, whose items only the plan knows, one for all.

    Args:
        compiled: of `read_package`.
        given: values of the run form by name; what is left out keeps its default.

    Returns:
        One pod a task, in the order of the file, as Kubernetes takes it.

    Raises:
        ConfigError: what the form, the API or the plan would refuse, or what the driver would fail at.
    """
    run = _Values(compiled, given)
    return [_pod(compiled, run, graph, name, task) for graph, name, task in compiled.executed()]


class _Values:
    """What a run's parameters and its plan's outputs are."""

    def __init__(self, compiled: Compiled, given: Mapping[str, Any]) -> None:
        self.compiled = compiled
        known = {"profiles": profiles_of(compiled.spec)}
        check_form(compiled.pipeline, {**given, **known})
        fields = compiled.parameters()
        for name, value in given.items():
            choices = fields[name].get("literals", [value])
            if value not in choices:
                hint = nearest(str(value), choices) or "."
                raise ConfigError(f"{name} = {value!r} is not allowed: this package offers {', '.join(map(repr, choices))}{hint}")
        self.parameters = {name: given.get(name, field.get("defaultValue")) for name, field in fields.items()}
        placement = choose_placement({**self.parameters, **known})
        assert placement is not None, "every form has a profile"
        self.outputs = {f"plan.{name}": value for name, value in placement.pools.outputs().items()}

    def resolve(self, graph: str, source: Document) -> Any:
        """The value of a reference in a graph; None is a null."""
        found = self.compiled.origin(graph, source)
        if found.kind == "constant":
            return found.value
        known = self.parameters if found.kind == "parameter" else self.outputs
        if found.name not in known:
            raise ConfigError(f"A pod of {self.compiled.pipeline} depends on {found.name}, which only a run can tell.")
        return known[found.name]

    def text(self, graph: str, task: Document, template: str) -> str:
        """A text of a container, as the driver reads it: a reference to anything but a text is ""."""
        channels = placeholders(template)
        if not channels:
            return template
        value = self.resolve(graph, task.get("inputs", {}).get("parameters", {}).get(channels[0], {}))
        return value if isinstance(value, str) else ""


def _pod(compiled: Compiled, run: _Values, graph: str, name: str, task: Document) -> Document:
    settings = compiled.settings(task)
    if strange := sorted(set(settings) - _RENDERED):
        raise ConfigError(f"The task {name} has the settings {', '.join(strange)}, which are not rendered: compile it with this version.")
    volumes, mounts = _volumes(run, graph, settings)
    found = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(settings.get("activeDeadlineSeconds", 0)),
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        **_nodes(run, graph, settings),
        "imagePullSecrets": list(_pull_secrets(run, graph, settings)),
        "containers": [{**_container(compiled, run, graph, name, task), "volumeMounts": mounts}],
        "volumes": volumes,
    }
    labels = settings.get("podMetadata", {}).get("labels", {})
    about = {"name": name, **({"labels": labels} if labels else {})}
    spec = {key: value for key, value in found.items() if value}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}


def _container(compiled: Compiled, run: _Values, graph: str, name: str, task: Document) -> Document:
    container, settings = compiled.container(task), compiled.settings(task)
    user = settings.get("securityContext", {})
    identity = {key: int(user[key]) for key in ("runAsUser", "runAsGroup") if key in user}
    return {
        "name": "main",
        "image": run.text(graph, task, container["image"]),
        "command": [f"{LAUNCHER}/launch"],
        "args": [*container.get("command", ()), *container.get("args", ())],
        "env": list(_variables(run, graph, container, settings)),
        "resources": _resources(run, graph, name, task, container.get("resources", {})),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            **identity,
        },
    }


def _resources(run: _Values, graph: str, name: str, task: Document, asked: Document) -> Document:
    """Amounts; the driver fails at one that is none, and skips an accelerator without a type or a number."""
    found: Document = {"requests": {}, "limits": {}}
    for key, bound, resource, read in _AMOUNTS:
        if key in asked:
            text = run.text(graph, task, asked[key])
            try:
                read(text)
            except ValueError as error:
                raise ConfigError(f"The task {name} would ask for {resource} = {text!r}, at which the driver fails: {error}.") from None
            found[bound][resource] = text
    accelerator = asked.get("accelerator", {})
    kind, number = (run.text(graph, task, accelerator.get(key, "")) for key in ("resourceType", "resourceCount"))
    if kind and number:
        found["limits"][kind] = number
    return found


def _variables(run: _Values, graph: str, container: Document, settings: Document) -> Iterator[Document]:
    yield from container.get("env", ())
    for kind, key, reference in (("secret", "secretKey", "secretKeyRef"), ("configMap", "configMapKey", "configMapKeyRef")):
        for each in settings.get(f"{kind}AsEnv", ()):
            if (named := _name_of(run, graph, each, kind)) is None:
                continue
            optional = {"optional": each["optional"]} if "optional" in each else {}
            for pair in each["keyToEnv"]:
                yield {"name": pair["envVar"], "valueFrom": {reference: {"name": named, "key": pair[key], **optional}}}
    for each in settings.get("fieldPathAsEnv", ()):
        yield {"name": each["name"], "valueFrom": {"fieldRef": {"fieldPath": each["fieldPath"]}}}


def _volumes(run: _Values, graph: str, settings: Document) -> tuple[list[Document], list[Document]]:
    """Volumes of a pod and where its container mounts them; the scratch volumes are Kubeflow's, for every pod."""
    volumes: list[Document] = [{"name": name, "emptyDir": {}} for name in _SCRATCH]
    mounts = [{"name": name, "mountPath": path} for name, path in _SCRATCH.items()]
    for each in settings.get("configMapAsVolume", ()):
        if named := _name_of(run, graph, each, "configMap"):
            volumes.append({"name": named, "configMap": {"name": named, "optional": each.get("optional", False)}})
            mounts.append({"name": named, "mountPath": each["mountPath"]})
    for each in settings.get("emptyDirMounts", ()):
        limits = {key: each[key] for key in ("medium", "sizeLimit") if key in each}
        volumes.append({"name": each["volumeName"], "emptyDir": limits})
        mounts.append({"name": each["volumeName"], "mountPath": each["mountPath"]})
    return volumes, mounts


def _nodes(run: _Values, graph: str, settings: Document) -> Document:
    """Selector, tolerations and affinity: a null is skipped, an empty mapping or list says nothing."""
    selector = settings.get("nodeSelector", {})
    labels = run.resolve(graph, selector["nodeSelectorJson"]) if "nodeSelectorJson" in selector else selector.get("labels")
    tolerations: list[Document] = []
    for each in settings.get("tolerations", ()):
        borne = run.resolve(graph, each["tolerationJson"]) if "tolerationJson" in each else each
        many: list[Document] = [borne] if isinstance(borne, dict) else borne or []
        tolerations += [one for one in many if one]
    terms = [{"matchExpressions": each["matchExpressions"]} for each in settings.get("nodeAffinity", ())]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}} if terms else {}
    return {"nodeSelector": labels, "tolerations": [_numbered(each) for each in tolerations], "affinity": affinity}


def _numbered(toleration: Mapping[str, Any]) -> Document:
    return {name: int(value) if name == "tolerationSeconds" else value for name, value in toleration.items()}


def _pull_secrets(run: _Values, graph: str, settings: Document) -> Iterator[Document]:
    for each in settings.get("imagePullSecret", ()):
        if named := _name_of(run, graph, each, "secret"):
            yield {"name": named}


def _name_of(run: _Values, graph: str, reference: Document, kind: str) -> str | None:
    """The name of a Secret or ConfigMap; None where its parameter is null, which the driver skips."""
    name: str | None = run.resolve(graph, reference[f"{kind}NameParameter"])
    return name
