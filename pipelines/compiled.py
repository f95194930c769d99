"""A compiled pipeline, taken apart for the rules that look at it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from distillery.errors import ConfigError, MissingResourceError
from distillery_kfp.pipelines.deployment import Deployment
from distillery_kfp.pipelines.metadata import component_of

Document = dict[str, Any]
_COMPILED = "give a file that `distillery compile --out` wrote"
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")


def read_file(path: Path) -> bytes:
    """The bytes of a compiled pipeline.

    Raises:
        MissingResourceError: there is no such file.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise MissingResourceError(f"The package {str(path)!r} cannot be read ({error.strerror}): {_COMPILED}.") from None


def documents_of(data: bytes, path: Path) -> list[Document]:
    """The documents of a compiled pipeline, the first of which names it.

    Raises:
        ConfigError: it is none.
    """
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        found = list(yaml.load_all(data, Loader=loader))
    except (yaml.YAMLError, ValueError, RecursionError):  # bytes that are no text, an integer of thousands of digits, brackets without end
        found = []
    if found and all(isinstance(document, dict) for document in found):
        first = found[0]
        if isinstance(first.get("pipelineInfo"), dict) and "name" in first["pipelineInfo"] and isinstance(first.get("root"), dict):
            return found
    raise not_compiled(path)


def not_compiled(path: Path) -> ConfigError:
    """What is said of a file that is no compiled pipeline."""
    return ConfigError(f"{str(path)!r} is no compiled pipeline: {_COMPILED}.")


@dataclass(frozen=True)
class ValueOrigin:
    """Where the value of a parameter comes from.

    Attributes:
        kind: constant | parameter, of the run | output, of a task | item, of a loop.
        type: Kubeflow's, of what is no constant; "" where nothing declares it.
        name: of the parameter or the item; of an output `<task>.<output>`.
        value: of a constant.
    """

    kind: Literal["constant", "parameter", "output", "item"]
    type: str = ""
    name: str = ""
    value: Any = None

    @property
    def is_text(self) -> bool:
        """Whether it is a text whatever a run is given."""
        return isinstance(self.value, str) if self.kind == "constant" else self.type == "STRING"

    def __str__(self) -> str:
        return f"constant {self.value!r}" if self.kind == "constant" else f"{self.type or 'unknown'} {self.name!r}"


@dataclass(frozen=True)
class Compiled:
    """One compiled pipeline, taken apart.

    Attributes:
        pipeline: its name.
        text: the file.
        spec: the first document.
        platform: executor label -> its Kubernetes settings.
        deployment: the images that it was compiled for.
    """

    pipeline: str
    text: str
    spec: dict[str, Any]
    platform: dict[str, Any]
    deployment: Deployment = field(default_factory=Deployment)

    @classmethod
    def parse(cls, pipeline: str, text: str, deployment: Deployment | None = None) -> "Compiled":
        """Take a file apart."""
        return replace(cls.of(pipeline, text, *yaml.safe_load_all(text)), deployment=deployment or Deployment())

    @classmethod
    def of(cls, pipeline: str, text: str, spec: dict[str, Any], platform: dict[str, Any] | None = None) -> "Compiled":
        """Both documents of a file, parsed already."""
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platform else {}
        return cls(pipeline, text, spec, executors)

    def graphs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and component of the root and of every nested graph."""
        yield "root", self.spec["root"]
        for name, component in self.spec["components"].items():
            if "dag" in component:
                yield name, component

    def tasks_of(self, graph: str) -> dict[str, dict[str, Any]]:
        """The tasks of the root or of a nested graph, by name."""
        component = self.spec["root"] if graph == "root" else self.spec["components"][graph]
        found: dict[str, dict[str, Any]] = component["dag"]["tasks"]
        return found

    def tasks(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(enclosing graph, task name, task) of every task."""
        for graph, component in self.graphs():
            for name, task in component["dag"]["tasks"].items():
                yield graph, name, task

    def executor(self, task: dict[str, Any]) -> str:
        """Executor label of a task, empty for a nested graph."""
        label: str = self.spec["components"][task["componentRef"]["name"]].get("executorLabel", "")
        return label

    def step(self, task: dict[str, Any]) -> str:
        """Name of our component that a task runs, however often it is used; empty for a nested graph or a stranger."""
        return component_of(self.executor(task))

    def parameters(self) -> dict[str, Any]:
        """Parameters of the run."""
        found: dict[str, Any] = self.spec["root"].get("inputDefinitions", {}).get("parameters", {})
        return found

    def container(self, task: dict[str, Any]) -> dict[str, Any]:
        """The container of a task, empty for a nested graph."""
        found: dict[str, Any] = self.spec["deploymentSpec"]["executors"].get(self.executor(task), {}).get("container", {})
        return found

    def settings(self, task: dict[str, Any]) -> dict[str, Any]:
        """The Kubernetes settings of a task."""
        found: dict[str, Any] = self.platform.get(self.executor(task), {})
        return found

    def executed(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Those of `tasks` that run a container."""
        return ((graph, name, task) for graph, name, task in self.tasks() if self.executor(task))

    def origin(self, graph: str, source: dict[str, Any]) -> "ValueOrigin":
        """Where the value of a task's parameter comes from, through every graph around the task.

        Args:
            graph: that the task stands in.
            source: one of the task's `inputs.parameters`.
        """
        if "runtimeValue" in source:
            return ValueOrigin("constant", value=source["runtimeValue"]["constant"])
        if "taskOutputParameter" in source:
            made = source["taskOutputParameter"]
            producer, key = made["producerTask"], made["outputParameterKey"]
            reference = self.tasks_of(graph).get(producer, {}).get("componentRef", {}).get("name", "")
            outputs = self.spec["components"].get(reference, {}).get("outputDefinitions", {}).get("parameters", {})
            return ValueOrigin("output", outputs.get(key, {}).get("parameterType", ""), f"{producer}.{key}")
        name = source.get("componentInputParameter", "")
        if graph == "root":
            return ValueOrigin("parameter", self.parameters().get(name, {}).get("parameterType", ""), name)
        outer, around = next((outer, task) for outer, _, task in self.tasks() if task["componentRef"]["name"] == graph)
        handed = around.get("inputs", {}).get("parameters", {}).get(name)
        if handed:
            return self.origin(outer, handed)
        own = self.spec["components"][graph].get("inputDefinitions", {}).get("parameters", {})
        return ValueOrigin("item", own.get(name, {}).get("parameterType", ""), name)


def placeholders(text: str) -> list[str]:
    """The inputs that a text of a container refers to."""
    return _PLACEHOLDER.findall(text)


def values_of(tree: Any, key: str) -> Iterator[str]:
    """Every text under `key` anywhere in a tree."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key and isinstance(value, str):
                yield value
            yield from values_of(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from values_of(value, key)


def tasks_below(compiled: Compiled, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every task of the graphs that a task runs."""
    component = compiled.spec["components"][task["componentRef"]["name"]]
    for inner in component.get("dag", {}).get("tasks", {}).values():
        yield inner
        yield from tasks_below(compiled, inner)


def iterated(task: dict[str, Any]) -> dict[str, Any]:
    """The upstream output that a loop runs over, empty where it runs over something else."""
    items = task.get("parameterIterator", {}).get("items", {}).get("inputParameter", "")
    source: dict[str, Any] = task.get("inputs", {}).get("parameters", {}).get(items, {}).get("taskOutputParameter", {})
    return source
