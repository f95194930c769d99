"""One table: the chart, the compiled pipelines and the images speak of the same keys, names and references."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import yaml

from charting import CHART, LEAST, ROOT, objects
from distillery_kfp.pipelines.chart import documented, leaves, render
from distillery_kfp.pipelines.deployment import Deployment
from distillery_kfp.pipelines.form import ALL
from distillery_kfp.pipelines.metadata import images

TABLE = yaml.safe_load((CHART / "files/table.yaml").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
FROM = {"settings": "configMapAsEnv", "credentials": "secretAsEnv"}


@pytest.mark.parametrize("path", render(), ids=lambda path: path.name)
def test_what_is_generated_is_as_it_would_be_written(path: Path) -> None:
    assert render()[path] == path.read_text(), "run make chart"


@pytest.mark.parametrize("pipeline", ALL)
@pytest.mark.parametrize("group", FROM)
def test_tasks_read_the_keys_that_the_chart_offers(pipeline: str, group: str) -> None:
    _, settings = yaml.safe_load_all((ROOT / f"tests/pipelines/golden/{pipeline}.yaml").read_text())
    executors = settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors
    offered = {(key, row["name"], row["required"]) for key, row in TABLE[group].items()}
    for executor in executors.values():
        read = {
            (pair.get("configMapKey", pair.get("secretKey")), pair["envVar"], not source.get("optional", False))
            for source in executor[FROM[group]]
            for pair in source["keyToEnv"]
        }
        assert read == offered


@pytest.mark.parametrize("pipeline", ALL)
def test_the_run_form_names_the_chart_s_objects(pipeline: str) -> None:
    text = (ROOT / f"tests/pipelines/golden/{pipeline}.yaml").read_text()
    parameters = next(yaml.safe_load_all(text))["root"]["inputDefinitions"]["parameters"]
    for group, names in (("settings", Deployment().settings), ("credentials", Deployment().credentials)):
        assert parameters[f"k8s_{group}"]["defaultValue"] == VALUES[group]["name"] == names[0]


def test_the_mount_is_that_of_the_tasks() -> None:
    _, settings = yaml.safe_load_all((ROOT / f"tests/pipelines/golden/{ALL[0]}.yaml").read_text())
    for executor in settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert TABLE["mount"] in {row["mountPath"] for row in executor["configMapAsVolume"]}


def test_images_are_those_of_the_table() -> None:
    assert TABLE["images"] == images()


def test_the_schema_is_a_schema_and_closed() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)

    def open_ones(part: object, where: str) -> list[str]:
        if not isinstance(part, dict):
            return []
        found = [where] if "properties" in part and part.get("additionalProperties") is not False else []
        return found + [name for key, value in part.items() for name in open_ones(value, f"{where}/{key}")]

    assert open_ones(schema, "") == []
    assert set(schema["properties"]) - {"global"} == set(VALUES)


def test_every_value_is_explained() -> None:
    said = documented((CHART / "values.yaml").read_text())
    assert {path for path, _ in leaves(VALUES, said)} == set(said)


def test_a_value_that_is_not_explained_is_noticed() -> None:
    text = "a:\n  # -- what it is\n  b: 1\n  c: {}\nd:\n  # -- whole\n  e:\n    f: 1\n"
    said = documented(text)
    assert said == {"a.b": "what it is", "d.e": "whole"}
    assert [path for path, _ in leaves(yaml.safe_load(text), said) if path not in said] == ["a.c"]


def test_chart_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version("distillery")


def test_default_values_hold_nothing_secret() -> None:
    assert VALUES["credentials"]["values"] == VALUES["pluginCredentials"]["values"] == {}


def test_labels_name_release_and_chart() -> None:
    for document in objects(LEAST).values():
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "team"
        assert re.fullmatch(r"distillery-\d+\.\d+\.\d+", labels["helm.sh/chart"])
