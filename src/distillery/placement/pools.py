"""What a task is given of a node, by the size of its step, checked before any other step waits for a node."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from distillery.config import Config
from distillery.placement.amounts import check_key, check_resource, check_value, read_accelerators, read_cpu, read_memory

Key = Annotated[str, AfterValidator(check_key)]
Value = Annotated[str, AfterValidator(check_value)]
_FOR_EVER = -1


def _cpu(text: str) -> str:
    read_cpu(text)
    return text


def _memory(text: str) -> str:
    read_memory(text)
    return text


def _resource(text: str) -> str:
    return check_resource(text) if text else text


def _listed(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError('give a list, such as [{"key": "pool", "operator": "Exists"}]')
    return value


def _one_at_most(text: str) -> str:
    if read_accelerators(text) > 1:
        raise ValueError("a step works on one accelerator, for none can share its work among several yet; give 1, or 0 for CPUs")
    return text


class Toleration(Config):
    """One taint that a pod bears, spelled as Kubernetes spells it.

    Attributes:
        key: of the taint; "" with the operator Exists is any.
        operator: Equal compares the value, Exists takes any.
        value: of the taint.
        effect: of the taint; "" is any.
        tolerationSeconds: how long a pod stays under NoExecute; -1 is for ever.
    """

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: Value = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    tolerationSeconds: int = Field(_FOR_EVER, ge=_FOR_EVER)

    @model_validator(mode="after")
    def _bearable(self) -> "Toleration":
        if self.key:
            check_key(self.key)
        elif self.operator != "Exists":
            raise ValueError("a toleration without a key needs the operator Exists")
        if self.operator == "Exists" and self.value:
            raise ValueError("the operator Exists takes no value")
        if self.tolerationSeconds != _FOR_EVER and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs the effect NoExecute")
        return self


class NodeRoom(Config):
    """What a task without an accelerator is given; its names are the last part of an override.

    Attributes:
        cpu_request: CPUs that are kept for it.
        cpu_limit: CPUs that it may use at most.
        memory_request: memory that is kept for it.
        memory_limit: memory that it may use at most; /dev/shm counts against it.
        node_selector: labels of its nodes.
        tolerations: taints of nodes that it bears.
    """

    cpu_request: Annotated[str, AfterValidator(_cpu)]
    cpu_limit: Annotated[str, AfterValidator(_cpu)]
    memory_request: Annotated[str, AfterValidator(_memory)]
    memory_limit: Annotated[str, AfterValidator(_memory)]
    node_selector: dict[Key, Value] = {}
    tolerations: Annotated[tuple[Toleration, ...], BeforeValidator(_listed)] = ()

    @model_validator(mode="after")
    def _within_limits(self) -> "NodeRoom":
        for name, read in (("cpu", read_cpu), ("memory", read_memory)):
            request, limit = getattr(self, f"{name}_request"), getattr(self, f"{name}_limit")
            if read(request) > read(limit):
                raise ValueError(f"{name}_request = {request!r} is above {name}_limit = {limit!r}; lower the one or raise the other")
        return self

    def values(self) -> dict[str, Any]:
        """What a task of Kubeflow is given, by name: texts, because its driver reads a number as "", one mapping and one list."""
        return {**self.to_json(), "tolerations": [each.model_dump(exclude_defaults=True) for each in self.tolerations]}


class Pool(NodeRoom):
    """What a task is given that works on an accelerator where it gets one.

    Attributes:
        accelerator: resource of its nodes, as their device plugin calls it.
        accelerators: how many of it; "0" leaves the task to CPUs.
    """

    accelerator: Annotated[str, AfterValidator(_resource)] = ""
    accelerators: Annotated[str, AfterValidator(_one_at_most)] = "0"

    @model_validator(mode="after")
    def _names_its_accelerator(self) -> "Pool":
        if read_accelerators(self.accelerators) and not self.accelerator:
            raise ValueError(f"accelerators = {self.accelerators!r} needs an accelerator, such as nvidia.com/gpu")
        return self

    def values(self) -> dict[str, Any]:
        """As of a room; without an accelerator its name is "", so that the driver asks the cluster for none."""
        named = {} if read_accelerators(self.accelerators) else {"accelerator": "", "accelerators": "0"}
        return {**super().values(), **named}


class Pools(Config):
    """What tasks are given, by the size of their step, which stands in the metadata.yaml of its component.

    Attributes:
        small: reads and writes, on CPUs.
        medium: passes images through networks once.
        large: trains.
    """

    small: NodeRoom
    medium: Pool
    large: Pool

    def outputs(self) -> dict[str, Any]:
        """What the plan hands to the tasks, by the name of its output: `<size>_<field>`."""
        sizes: dict[str, NodeRoom] = {"small": self.small, "medium": self.medium, "large": self.large}
        return {f"{size}_{name}": value for size, pool in sizes.items() for name, value in pool.values().items()}


SIZES = tuple(Pools.model_fields)
"""Sizes of steps whose tasks the plan places; the plan itself stands before them."""


def fields_of(size: str) -> dict[str, type]:
    """What the plan hands to a task of a size, with the type that Kubeflow carries it in: STRING, STRUCT or LIST."""
    room = Pools.model_fields[size].annotation
    assert isinstance(room, type)
    assert issubclass(room, NodeRoom)
    kinds: dict[str, type] = {"node_selector": dict, "tolerations": list}
    return {name: kinds.get(name, str) for name in room.model_fields}


PLACED = {f"{size}_{name}": kind for size in SIZES for name, kind in fields_of(size).items()}
"""Names and types of all that the plan hands to tasks for their places."""
