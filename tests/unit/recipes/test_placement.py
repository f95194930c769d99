"""What the form says of nodes: amounts as Kubernetes reads them, one sentence each for what it would not take, and nothing left of it."""

from typing import Any

import pytest

from distillery.errors import ConfigError
from distillery.recipes.placement import PLACEMENT, check_placement, read_accelerators

GOOD: dict[str, Any] = {
    "k8s_cpu_limit": "4",
    "k8s_cpu_request": "500m",
    "k8s_gpu_limit": "1",
    "k8s_gpu_node_selector": {"pool": "a100"},
    "k8s_gpu_tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "k8s_gpu_type": "nvidia.com/gpu",
    "k8s_memory_limit": "16Gi",
    "k8s_memory_request": "8Gi",
}


def test_good_fields_pass_and_leave_nothing_behind() -> None:
    assert set(GOOD) == set(PLACEMENT)
    assert check_placement({**GOOD, "run_seed": 3, "teacher_uri": "t"}) == {"run_seed": 3, "teacher_uri": "t"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"k8s_gpu_limit": "0", "k8s_gpu_type": ""},
        {"k8s_gpu_type": "amd.com/gpu"},
        {"k8s_gpu_type": "nvidia.com/mig-1g.10gb"},
        {"k8s_cpu_request": "0.5", "k8s_cpu_limit": "0.5"},
        {"k8s_cpu_request": "4000m", "k8s_cpu_limit": "4"},
        {"k8s_memory_request": "16Gi", "k8s_memory_limit": "17179869184"},
        {"k8s_memory_request": "1.5G", "k8s_memory_limit": "1500M"},
        {"k8s_gpu_tolerations": {}},
        {"k8s_gpu_tolerations": [{"operator": "Exists"}]},
    ],
)
def test_other_ways_to_write_them(fields: dict[str, Any]) -> None:
    assert check_placement({**GOOD, **fields}) == {}


@pytest.mark.parametrize("number", ["one", "", " 1", "1.0", "-1", "1,2", "1 GPU", 1, 1.0, True, None, "99999"])
def test_what_is_no_number_of_accelerators(number: object) -> None:
    with pytest.raises(ConfigError, match=r"^k8s_gpu_limit = .* is not allowed: give the number of accelerators as a text"):
        check_placement({**GOOD, "k8s_gpu_limit": number})


def test_numbers_of_accelerators() -> None:
    assert [read_accelerators(text) for text in ("0", "1", "8")] == [0, 1, 8]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("k8s_cpu_request", "two", "k8s_cpu_request = 'two' is not allowed"),
        ("k8s_cpu_limit", "", "k8s_cpu_limit = '' is not allowed"),
        ("k8s_cpu_limit", "0", "k8s_cpu_limit = '0' is not allowed"),
        ("k8s_cpu_limit", "4Gi", "k8s_cpu_limit = '4Gi' is not allowed"),
        ("k8s_memory_limit", "16 Gi", "k8s_memory_limit = '16 Gi' is not allowed"),
        ("k8s_memory_limit", "16GB", "k8s_memory_limit = '16GB' is not allowed"),
        ("k8s_memory_request", 8, "k8s_memory_request = 8 is not allowed"),
        ("k8s_memory_request", "17Gi", "k8s_memory_request = '17Gi' is above k8s_memory_limit = '16Gi'"),
        ("k8s_cpu_limit", "499m", "k8s_cpu_request = '500m' is above k8s_cpu_limit = '499m'"),
        ("k8s_gpu_type", "", "k8s_gpu_type = '' is not allowed"),
        ("k8s_gpu_type", "gpu", "k8s_gpu_type = 'gpu' is not allowed"),
        ("k8s_gpu_node_selector", {"pool": 1}, "k8s_gpu_node_selector = {'pool': 1} is not allowed"),
        ("k8s_gpu_node_selector", "pool=a", "k8s_gpu_node_selector = 'pool=a' is not allowed"),
        ("k8s_gpu_tolerations", [{"keys": "x"}], "k8s_gpu_tolerations = "),
        ("k8s_gpu_tolerations", ["x"], "k8s_gpu_tolerations = "),
        ("k8s_gpu_tolerations", "x", "k8s_gpu_tolerations = "),
    ],
)
def test_one_sentence_for_what_no_cluster_takes(field: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_placement({**GOOD, field: value})
    assert str(caught.value).startswith(said)
    assert str(caught.value).count(". ") == 0
