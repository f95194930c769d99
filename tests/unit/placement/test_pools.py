"""What a task is given of a node: amounts as Kubernetes reads them, one sentence each for what no cluster would take."""

from decimal import Decimal
from typing import Any

import pytest

from distillery.config import Config
from distillery.errors import ConfigError
from distillery.placement.amounts import read_accelerators, read_cpu, read_memory
from distillery.placement.pools import PLACED, SIZES, NodeRoom, Pool, Toleration, fields_of

ROOM: dict[str, Any] = {"cpu_request": "500m", "cpu_limit": "4", "memory_request": "8Gi", "memory_limit": "16Gi"}
POOL: dict[str, Any] = {
    **ROOM,
    "accelerator": "nvidia.com/gpu",
    "accelerators": "1",
    "node_selector": {"pool": "a100", "cloud.example.com/kind": ""},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
}


def test_amounts() -> None:
    assert [read_cpu(text) for text in ("2", "0.5", "500m")] == [2, Decimal("0.5"), Decimal("0.5")]
    assert [read_memory(text) for text in ("1Ki", "1.5G", "2Mi", "17179869184")] == [1024, 1_500_000_000, 2 * 1024**2, 16 * 1024**3]
    assert [read_accelerators(text) for text in ("0", "1", "8")] == [0, 1, 8]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"accelerators": "0", "accelerator": ""},
        {"accelerator": "amd.com/gpu"},
        {"accelerator": "nvidia.com/mig-1g.10gb"},
        {"cpu_request": "0.5", "cpu_limit": "0.5"},
        {"cpu_request": "4000m", "cpu_limit": "4"},
        {"memory_request": "16Gi", "memory_limit": "17179869184"},
        {"memory_request": "1.5G", "memory_limit": "1500M"},
        {"tolerations": []},
        {"tolerations": [{"operator": "Exists"}]},
        {"tolerations": [{"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 300.0}]},
        {"node_selector": {}},
    ],
)
def test_what_a_cluster_takes(fields: dict[str, Any]) -> None:
    assert set(Pool.parse({**POOL, **fields}).values()) == set(fields_of("large"))


@pytest.mark.parametrize("number", ["one", "", " 1", "1.0", "-1", "1,2", "1 GPU", "99999"])
def test_what_is_no_number_of_accelerators(number: str) -> None:
    with pytest.raises(ConfigError, match=r"^x.accelerators = .* is not allowed: give the number of accelerators, such as 1"):
        Pool.parse({**POOL, "accelerators": number}, "x")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("cpu_request", "two", "x.cpu_request = 'two' is not allowed: give an amount above 0, such as 2, 0.5 or 500m."),
        ("cpu_limit", "", "x.cpu_limit = '' is not allowed"),
        ("cpu_limit", "0", "x.cpu_limit = '0' is not allowed"),
        ("cpu_limit", "4Gi", "x.cpu_limit = '4Gi' is not allowed"),
        ("cpu_limit", "٤", "x.cpu_limit = '٤' is not allowed"),
        ("memory_limit", "16 Gi", "x.memory_limit = '16 Gi' is not allowed: give an amount above 0, such as 8Gi or 512Mi."),
        ("memory_limit", "16GB", "x.memory_limit = '16GB' is not allowed"),
        ("memory_request", 8, "x.memory_request = 8 is not allowed: give a text"),
        ("memory_request", "17Gi", "x is not allowed: memory_request = '17Gi' is above memory_limit = '16Gi'; lower the one"),
        ("cpu_limit", "499m", "x is not allowed: cpu_request = '500m' is above cpu_limit = '499m'"),
        ("accelerators", "2", "x.accelerators = '2' is not allowed: a step works on one accelerator"),
        ("accelerators", 1, "x.accelerators = 1 is not allowed: give a text"),
        ("accelerator", "", "x is not allowed: accelerators = '1' needs an accelerator, such as nvidia.com/gpu."),
        ("accelerator", "gpu", "x.accelerator = 'gpu' is not allowed: give the resource of your accelerators"),
        ("node_selector", {"pool": 1}, "x.node_selector.pool = 1 is not allowed: give a text"),
        ("node_selector", {"a pool": "1"}, "x.node_selector.a pool."),
        ("node_selector", {"Cloud.Example/pool": "1"}, "x.node_selector.Cloud.Example/pool."),
        ("node_selector", {"pool": "-"}, "x.node_selector.pool = '-' is not allowed"),
        ("node_selector", {"pool": "a" * 64}, "x.node_selector.pool = 'aaa"),
        ("node_selector", "pool=a", "x.node_selector = 'pool=a' is not allowed"),
        ("tolerations", [{"keys": "x"}], "Unknown key 'x.tolerations.0.keys'; allowed here: effect, key, operator"),
        ("tolerations", ["x"], "x.tolerations.0 = 'x' is not allowed"),
        ("tolerations", "x", "x.tolerations = 'x' is not allowed: give a list"),
        ("tolerations", {"key": "x"}, "x.tolerations is not allowed: give a list, such as"),
        ("tolerations", [{"value": "x"}], "x.tolerations.0 is not allowed: a toleration without a key needs the operator Exists."),
        ("tolerations", [{"key": "x", "operator": "Exists", "value": "y"}], "x.tolerations.0 is not allowed: the operator Exists takes"),
        ("tolerations", [{"key": "x", "operator": "In"}], "x.tolerations.0.operator = 'In' is not allowed"),
        ("tolerations", [{"key": "x", "effect": "Never"}], "x.tolerations.0.effect = 'Never' is not allowed"),
        ("tolerations", [{"key": "x", "tolerationSeconds": 3}], "x.tolerations.0 is not allowed: tolerationSeconds needs the effect"),
        ("tolerations", [{"key": "a b"}], "x.tolerations.0 is not allowed: 'a b' is no key of a label"),
    ],
)
def test_one_sentence_for_what_no_cluster_takes(field: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Pool.parse({**POOL, field: value}, "x")
    assert str(caught.value).startswith(said)
    assert str(caught.value).count(". ") == 0


def test_a_task_on_cpus_asks_for_no_accelerator_by_any_name() -> None:
    """The driver skips an accelerator whose type is "", whatever its number."""
    values = Pool.parse({**POOL, "accelerators": "0"}).values()
    assert (values["accelerator"], values["accelerators"]) == ("", "0")


def test_what_tasks_are_handed_is_texts_a_mapping_and_a_list() -> None:
    values = Pool.parse(POOL).values()
    assert {name: type(value) for name, value in values.items()} == fields_of("large")
    assert values["tolerations"] == POOL["tolerations"], "as it is written: what stands at its default is left out"
    assert {f"{size}_{name}": kind for size in SIZES for name, kind in fields_of(size).items()} == PLACED
    assert not {name for name in fields_of("small") if "accelerator" in name}


@pytest.mark.parametrize(("cls", "given"), [(NodeRoom, ROOM), (Pool, POOL), (Toleration, POOL["tolerations"][0])])
def test_what_was_written_is_read_as_it_was(cls: type[Config], given: dict[str, Any]) -> None:
    parsed = cls.parse(given)
    assert cls.parse(parsed.to_json()) == parsed
