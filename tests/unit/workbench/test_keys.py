"""Keys: what is in them, what is not, and that provenance alone gives them again."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.config import canonical_json
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.models.catalog import Architecture, code_of_others
from distillery.provenance import Provenance, code_version, dump_json, sha256_bytes, stamp
from distillery.recipes.sections import Section, StudentSection
from distillery.step_table import keepers
from distillery.steps import plan
from distillery.storage import MemoryStore
from distillery.workbench.bench import open_run_store, workbench
from distillery.workbench.keys import is_planned, key_of, step_versions
from distillery.workbench.lineage import StepRecord, kept_in, parse_record, read_records, write_record

SECTION = Section(seed=1, code_version=code_version(), teacher_sha256="t", precision="float32")


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_WORKDIR", str(tmp_path / "work"))
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")


def opened(section: Section = SECTION, step: str = "materialize") -> tuple[str, Provenance]:
    with workbench(step, section, {"teacher": "t"}) as bench:
        return bench.key, bench.provenance


def test_a_comment_in_our_sources_is_no_new_work(monkeypatch: pytest.MonkeyPatch) -> None:
    key, made = opened()
    monkeypatch.setattr("distillery.recipes.sections.code_version", lambda: "d" * 64)
    monkeypatch.setattr("distillery.workbench.bench.code_version", lambda: "d" * 64)
    again, made_again = opened(SECTION.model_copy(update={"code_version": "d" * 64}))
    assert again == key
    assert (made.code_version, made_again.code_version) == (code_version(), "d" * 64)
    assert made.config["code_version"] == code_version()


def test_an_edit_that_the_step_reaches_is(monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = opened()
    monkeypatch.setattr("distillery.workbench.bench.step_version", lambda step: f"edited {step}")
    assert opened()[0] != key


def test_another_torch_is_other_work_and_provenance_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    key, made = opened()
    assert made.packages == {"torch": torch.__version__}
    monkeypatch.setattr(torch, "__version__", "99.0.0")
    other, made = opened()
    assert other != key
    assert made.packages == {"torch": "99.0.0"}


@pytest.mark.parametrize(
    ("names", "packages"),
    [
        (["resnet8"], []),
        (["torchvision:resnet18", "resnet8"], ["torchvision"]),
        (["timm:x", "torchvision:y"], ["timm", "torchvision"]),
        (["json.decoder:f"], ["timm", "torchvision"]),  # a module of the user's own may build on either
    ],
)
def test_the_version_of_a_package_that_builds_a_network_is_in_the_key(
    names: list[str], packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = code_of_others(*(Architecture(name=name) for name in names))["packages"]
    assert named == packages
    section = SECTION.model_copy(update={"packages": tuple(named)})
    found = {name: version for name in packages if (version := _version(name))}
    key, made = opened(section)
    assert {name: version for name, version in made.packages.items() if version} == {"torch": torch.__version__, **found}
    monkeypatch.setattr(metadata, "version", lambda name: "99.0")
    assert (opened(section)[0] == key) == (packages == [])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@pytest.mark.parametrize("step", keepers())
def test_provenance_as_it_lies_in_a_file_gives_the_key_again(step: str) -> None:
    key, made = opened(step=step)
    assert key_of(step, Provenance.parse(made.to_json())) == key
    for change in ({"step_version": "x"}, {"packages": {"torch": "x"}}, {"inputs": {"teacher": "u"}}, {"config": {}}):
        assert key_of(step, made.model_copy(update=change)) != key
    assert key_of("register", made) != key


def test_files_from_before_step_versions_give_the_key_that_they_were_made_under() -> None:
    config = {"seed": 1, "code_version": "c", "resolved": {"device": "cpu", "precision": "float32"}}
    made = Provenance(inputs={"teacher": "t"}, config=config, code_version="c")
    assert key_of("materialize", made) == "a41fde38dbf03a5c1763caf5e3a7660ca0156a70b006bbca1d42a64ffd763365"  # as it was found then
    assert key_of("materialize", made.model_copy(update={"code_version": "d"})) != key_of("materialize", made)


def test_settings_are_compared_and_the_code_is_not() -> None:
    planned = {"seed": 1, "code_version": "a"}
    made = Provenance(config={"seed": 1, "code_version": "b", "resolved": {"device": "cpu"}}, code_version="b")
    assert is_planned(made, planned)
    assert not is_planned(made, {**planned, "seed": 2})
    assert not is_planned(made, {**planned, "salt": "x"})


def test_documents_that_no_step_wrote_are_as_they_were() -> None:
    assert set(Provenance(code_version="c").to_json()) == {"inputs", "config", "seeds", "code_version"}
    assert set(step_versions()) == {*keepers(), "torch"}


@pytest.mark.parametrize("image", ["", "example/distillery:2"])
def test_a_section_that_other_code_planned_is_refused_before_anything_is_made(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLERY_IMAGE", image)
    stale = SECTION.model_copy(update={"code_version": "b" * 64})
    said = "planned by code 'bbbbbbbbbbbb', but " + (f"the image '{image}'" if image else "the Distillery here")
    with pytest.raises(CheckpointMismatchError, match=f"section of materialize was {said} is code '{code_version()[:12]}'"):
        opened(stale)
    assert not (tmp_path / "store").exists()


def test_settings_that_a_stale_image_does_not_know_are_told_as_what_they_are() -> None:
    section: dict[str, Any] = {**SECTION.to_json(), "student": {}, "loudness": 3}
    with pytest.raises(ConfigError, match="Unknown key 'student.loudness'|student.student"):
        StudentSection.parse(section, "student")
    with pytest.raises(CheckpointMismatchError, match="section of student was planned by code 'bbbbbbbbbbbb'"):
        StudentSection.parse({**section, "code_version": "b" * 64}, "student")


@pytest.mark.parametrize("uri", ["", "folder", "{tmp}/store", "file://{tmp}/store", "~/store"])
def test_a_folder_is_no_store_in_a_pod(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLERY_STORE", uri.replace("{tmp}", str(tmp_path)))
    open_run_store()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    said = "DISTILLERY_STORE (= .* is not allowed|is not set) in a pod, .*: give s3://bucket/prefix, in a pipeline by the ConfigMap"
    with pytest.raises(ConfigError, match=said):
        opened()
    with pytest.raises(ConfigError, match=said):
        plan.run("online_distillation", {})  # before it looks at any parameter
    assert not [path for path in tmp_path.rglob("*.json") if "errors" not in path.parts]


def test_a_bucket_is_and_so_is_the_folder_that_a_person_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    for uri in ("s3://bucket/prefix", "S3://bucket"):
        monkeypatch.setenv("DISTILLERY_STORE", uri)
        assert open_run_store().remote
    monkeypatch.setenv("DISTILLERY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DISTILLERY_FOLDER_STORE", "1")
    assert open_run_store().uri == str(tmp_path / "store")


@pytest.mark.parametrize(
    ("layout", "place"), [(1, "outputs/statistics/file"), (2, "outputs/statistics/<sha256>/file"), (2, "outputs/student/<sha256>/best/x")]
)
def test_a_record_says_where_outputs_lie_also_one_from_before_they_lay_under_their_hash(layout: int, place: str) -> None:
    name, relative = ("student", "best/x") if "student" in place else ("statistics", "")
    fields: dict[str, Any] = {"step": "train_student", "key": "k", "outputs": {name: {relative: "ab" * 32}}}
    first = dump_json(stamp("distillery-step", 1, Provenance(code_version="c"), fields))
    store = MemoryStore()
    write_record(store, "run", StepRecord(**fields, layout=layout), Provenance(code_version="c"))
    (record,) = read_records(store, "run") if layout == 2 else (parse_record(first, "here"),)
    assert record.layout == layout
    digest = sha256_bytes(canonical_json({relative: "ab" * 32}).encode())
    assert record.at(name, relative) == f"checkpoints/train_student/k/{place.replace('<sha256>', digest)}"


def test_an_output_with_another_file_lies_elsewhere() -> None:
    files = {"a": "1" * 64, "best/b": "2" * 64}
    assert len({kept_in("student", other) for other in (files, {**files, "c": "3" * 64}, {**files, "a": "4" * 64}, {"a": "1" * 64})}) == 4
