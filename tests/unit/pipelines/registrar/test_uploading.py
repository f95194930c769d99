"""Packages as versions: named by their content, uploaded once, whatever fails meanwhile."""

from dataclasses import replace
from pathlib import Path

import pytest

from distillery.errors import ConfigError, MissingResourceError
from distillery_kfp.pipelines.registrar.package import (
    LONGEST_VERSION,
    PipelinePackage,
    check_release,
    own_release,
    read_package,
    read_packages,
)
from distillery_kfp.pipelines.registrar.parameters import check_parameters
from distillery_kfp.pipelines.registrar.uploading import find_version, upload
from kubeflow_api import FakeKubeflow
from kubeflow_places import HOST, Place, asked, packed

RELEASE = "1.4.0"
GOLDENS = Path(__file__).parents[3] / "pipelines" / "golden"


def test_a_version_is_named_by_pipeline_release_and_content(package: PipelinePackage, tmp_path: Path) -> None:
    path = packed(tmp_path)
    assert package.version(RELEASE) == f"learn-weekly-1.4.0-{package.sha256[:12]}"
    path.write_text("# another comment\n" + path.read_text())
    assert read_package(path).sha256 == package.sha256
    other = read_package(packed(tmp_path, old=HOST, new="registry.example.net/elsewhere/"))
    assert other.sha256 != package.sha256
    path = packed(tmp_path, old="exec-learn: {}}", new="exec-learn: {enabledSharedMemory: {}}}")
    assert read_package(path).sha256 != package.sha256


def test_a_package_is_uploaded_once(place: Place, package: PipelinePackage) -> None:
    mine = place.named(package)
    assert find_version(place.api, mine, RELEASE) is None
    first = upload(place.api, mine, RELEASE)
    second = upload(place.api, mine, RELEASE)
    assert first.is_new
    assert second == replace(first, is_new=False)
    assert find_version(place.api, mine, RELEASE) == second
    said = place.api.version(first.pipeline, first.version)
    assert said is not None
    assert said["description"].endswith(f"IR sha256 {package.sha256}")
    assert said["description"].startswith(package.description)


def test_other_content_and_another_release_are_other_versions(place: Place, package: PipelinePackage, tmp_path: Path) -> None:
    mine = place.named(package)
    other = place.named(read_package(packed(tmp_path, old=HOST, new="registry.example.net/v2/")))
    made = [upload(place.api, mine, RELEASE), upload(place.api, other, RELEASE), upload(place.api, mine, "1.5.0")]
    assert all(done.is_new for done in made)
    assert len({done.version for done in made}) == 3
    assert len({done.pipeline for done in made}) == 1
    again = [upload(place.api, mine, RELEASE), upload(place.api, other, RELEASE), upload(place.api, mine, "1.5.0")]  # on two pages
    assert [done.version for done in again] == [done.version for done in made]
    assert not any(done.is_new for done in again)


@pytest.mark.parametrize("how", ["before", "after", "lost"])
def test_one_version_is_there_whichever_request_fails(fake: FakeKubeflow, package: PipelinePackage, how: str) -> None:
    upload(asked(count := FakeKubeflow()), package, RELEASE)
    for failing in range(len(count.made)):
        server = FakeKubeflow(failure=lambda number, name, failing=failing: how if number == failing else "")  # type: ignore[misc]
        done = upload(asked(server), package, RELEASE)
        assert list(server.versions) == [done.version]
        assert list(server.pipelines) == [done.pipeline]
        assert server.violations == []


def test_several_that_upload_at_once_have_one_version(package: PipelinePackage) -> None:
    upload(asked(count := FakeKubeflow()), package, RELEASE)
    for moment in range(len(count.made)):
        server = FakeKubeflow()
        found = []

        def meanwhile(number: int, moment: int = moment, server: FakeKubeflow = server, found: list[str] = found) -> None:
            if number == moment and not found:
                found.append("")
                found[0] = upload(asked(server), package, RELEASE).version

        server.before = meanwhile
        done = upload(asked(server), package, RELEASE)
        assert [done.version] == list(server.versions) == found
        assert len(server.pipelines) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no compiled pipeline"),
        ("a: [", "no compiled pipeline"),
        ("pipelineInfo: {name: x}", "no compiled pipeline"),
        ("pipelineInfo: {name: Some Pipeline}\nroot: {}", "'Some Pipeline'"),
        ("\x00", "no compiled pipeline"),
        ("--- 1\n--- 2\n", "no compiled pipeline"),
    ],
)
def test_a_file_that_is_no_package_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_package(path)


def test_images_that_are_nobodys_are_refused(tmp_path: Path) -> None:
    path = packed(tmp_path, old=HOST, new="registry.example.com/")
    with pytest.raises(ConfigError, match="compile it with --registry"):
        read_package(path)


@pytest.mark.parametrize("golden", sorted(GOLDENS.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_we_compile_is_a_package(tmp_path: Path, golden: Path) -> None:
    path = tmp_path / golden.name
    path.write_text(golden.read_text().replace("registry.example.com/", HOST))
    package = read_package(path)
    assert package.name == golden.stem.replace("_", "-")
    assert package.description
    assert len(package.version(own_release())) <= LONGEST_VERSION
    defaults = {name: field["defaultValue"] for name, field in package.parameters.items() if "defaultValue" in field}
    needed = dict.fromkeys(set(package.parameters) - set(defaults), "s3://models/it")
    assert check_parameters(package, {**defaults, **needed}, "parameters") == {**defaults, **needed}
    with pytest.raises(ConfigError, match="is missing"):
        check_parameters(package, defaults, "parameters")
    with pytest.raises(ConfigError, match="is missing"):  # Kubeflow takes a blank, and the plan fails
        check_parameters(package, {**defaults, **dict.fromkeys(needed, " ")}, "parameters")
    older = replace(package, parameters={**package.parameters, "gone_since": {"parameterType": "STRING"}})
    assert check_parameters(older, {**dict.fromkeys(needed, " "), "gone_since": ""}, "parameters")


def test_packages_come_from_folders_and_files(tmp_path: Path, package: PipelinePackage) -> None:
    packed(tmp_path / "some")
    other = packed(tmp_path / "others", "learn-daily")
    assert sorted(read_packages([tmp_path / "some", other])) == ["learn-daily", package.name]
    with pytest.raises(ConfigError, match="Two of the packages"):
        read_packages([other, tmp_path / "others"])
    with pytest.raises(MissingResourceError, match="no package in"):
        read_packages([tmp_path])
    with pytest.raises(MissingResourceError, match="cannot be read"):
        read_packages([tmp_path / "nothing.yaml"])


def test_a_release_can_stand_in_a_name() -> None:
    assert check_release(own_release()) == own_release()
    for release in ("", "1.4.0 beta", "V1", "x" * 41, "-1"):
        with pytest.raises(ConfigError, match="--release"):
            check_release(release)
