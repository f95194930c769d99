"""The compiled pipelines' own commands in containers, as the most careful platform would run them: tests/containers.py says what is real.

Kubeflow's DockerRunner reports success where it finds a container gone before it has asked how it ended, as podman's are, and a busy
engine's now and then: it asks for their removal itself. So the tests keep each container until it was asked, and a canary that has to
fail goes before everything that has to succeed.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.models.containers import Container, ContainerCollection
from docker.types import Mount
from kfp import components, dsl, local
from kfp.local.config import LocalExecutionConfig

from chains import EXPECTS, OVERRIDES, SHARED, make_teacher
from containers import SCRATCH, USER, Images, Registry, derive, executor, fill, labels_of, whole_input
from distillery.provenance import code_version
from distillery_kfp.images.build import Engine, write_digest
from distillery_kfp.pipelines.deployment import faults_of
from distillery_kfp.pipelines.metadata import images

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner:UserWarning"),
]

GOLDEN = Path(__file__).parents[1] / "pipelines" / "golden"
RECIPE = "fast_dfkd/digits"
IMAGES = images()


@pytest.fixture(scope="module", params=["thin", pytest.param("real", marks=pytest.mark.soak)])
def made(request: pytest.FixtureRequest) -> Images:
    """The images under test."""
    found: Images = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Path]:
    """A teacher that nobody trained, and folders that group 0 may write, as volumes of a pod are."""
    before = os.umask(0o002)
    make_teacher(tmp_path / "teacher")
    for name in ("store", "scratch", "root", *(place.strip("/") for place in SCRATCH)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o2775)
    yield tmp_path
    os.umask(before)


def form(**more: Any) -> dict[str, Any]:
    """A run of the digits recipe, cut down to seconds."""
    overrides = {**OVERRIDES[RECIPE], **SHARED, **EXPECTS}
    return {"teacher_uri": "/desk/teacher", "run_recipe": RECIPE, "run_overrides": overrides, "run_profile": "cpu", **more}


def defaults(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document["root"]["inputDefinitions"]["parameters"]
    return {name: row["defaultValue"] for name, row in parameters.items() if "defaultValue" in row}


def test_the_command_of_the_compiled_pipeline_runs_word_for_word_without_any_right(made: Images, desk: Path) -> None:
    document, _ = yaml.safe_load_all((GOLDEN / "online_distillation.yaml").read_text())
    values = {**defaults(document), **form(), "pipeline": "online_distillation", "profiles": {}}
    writable = {place: desk / place.strip("/") for place in SCRATCH}
    places = {**writable, "/scratch": desk / "scratch", "/store": desk / "store", "/desk/teacher": desk / "teacher"}

    def carry_out(task: str, given: dict[str, Any]) -> dict[str, Any]:
        container = executor(document, task)
        variables = {row["name"]: row["value"] for row in container["env"]}
        env = {**variables, "DISTILLERY_STORE": "/store", "KFP_RUN_ID": "run-1", "DISTILLERY_FOLDER_STORE": "1"}
        words = fill(container, whole_input(document, task, given, {}, f"/s3/bucket/{task}"))
        done = made.run(container["image"], words, env=env, writable=places)
        assert done.returncode == 0, done.stderr
        assert "ermission denied" not in done.stdout + done.stderr
        answer: dict[str, Any] = json.loads((desk / "s3" / "bucket" / task / "output_metadata.json").read_text())
        return answer

    sections = carry_out("plan", values)["parameterValues"]
    carry_out("extract-statistics", {"section": sections["statistics"], "teacher_uri": "/desk/teacher", "synth_statistics_uri": ""})
    written = desk / "s3" / "bucket" / "extract-statistics" / "artifacts" / "statistics"
    assert written.stat().st_uid == int(USER.partition(":")[0])
    assert written.stat().st_size > 0


@dsl.component(base_image=IMAGES["cpu"], packages_to_install=[], install_kfp_package=False)
def canary() -> None:
    """Fail."""
    raise SystemExit(3)


@dsl.component(base_image=IMAGES["cpu"], packages_to_install=[], install_kfp_package=False)
def look_around() -> str:
    """Say who this is, what it may do, and where it may write."""
    import json
    import os
    from pathlib import Path

    import distillery

    places = ["/", "/tmp", os.environ["HOME"], str(Path(distillery.__file__).parent)]
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    rights = {"effective": status["CapEff"], "bounding": status["CapBnd"], "no_new": status["NoNewPrivs"]}
    writable = [place for place in places if os.access(place, os.W_OK)]
    return json.dumps({"uid": os.getuid(), "groups": os.getgroups(), **rights, "writable": writable})


@pytest.fixture
def runner(made: Images, desk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Kubeflow's own runner on the engine, with the rights of a pod and no more; its root."""
    kept, run = [], ContainerCollection.run

    def keep(self: ContainerCollection, **settings: Any) -> Container:
        kept.append(run(self, **{**settings, "auto_remove": False}))
        return kept[-1]

    monkeypatch.setattr(ContainerCollection, "run", keep)
    monkeypatch.setenv("DOCKER_HOST", made.docker.address)
    monkeypatch.setattr(LocalExecutionConfig, "instance", None)  # what `init` puts there is gone after the test
    for image in dict.fromkeys(IMAGES.values()):
        settings = {"DISTILLERY_STORE": "/store", "KFP_RUN_ID": "run-1", "DISTILLERY_FOLDER_STORE": "1"}
        derive(made, image, settings, desk / image.rpartition("/")[2])
    volumes = {str(desk / "store"): "/store", str(desk / "teacher"): "/desk/teacher"}
    mounts = [Mount(place, host, "bind", read_only=True) for host, place in made.mounts.items()]
    mounts += [Mount(place, host, "bind") for host, place in volumes.items()]
    rights = {"user": USER, "read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "network_mode": "none"}
    scratch = dict.fromkeys(("/tmp", "/scratch", *SCRATCH), "")
    docker_runner = local.DockerRunner(**rights, mounts=mounts, tmpfs=scratch)
    local.init(docker_runner, pipeline_root=str(desk / "root"), raise_on_error=True)
    yield desk / "root"
    for container in kept:
        container.remove(force=True)


def test_a_task_that_fails_is_seen_to_fail(runner: Path) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match="canary.*FAILURE"):
            canary()


def test_a_task_is_the_platforms_user_and_writes_nowhere_else(runner: Path) -> None:
    none = "0" * 16
    said = json.loads(look_around().output)
    assert said == {"uid": 12345, "groups": [0], "effective": none, "bounding": none, "no_new": "1", "writable": ["/tmp"]}


def compiled() -> Any:
    """The compiled pipeline as a callable, as it is but for its retries, whose waits a failure here does not need."""
    documents = list(yaml.safe_load_all((GOLDEN / "online_distillation.yaml").read_text()))
    for graph in (documents[0]["root"], *documents[0]["components"].values()):
        for task in graph.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    return components.load_component_from_text(yaml.safe_dump_all(documents))


def test_a_digits_pipeline_runs_whole(runner: Path, desk: Path) -> None:
    compiled()(**form())
    (student,) = (desk / "store" / "students").iterdir()
    assert json.loads((student / "bundle.json").read_text())["architecture"]["name"] == "resnet8"
    record = json.loads((desk / "store" / "runs" / "run-1" / "run.json").read_text())
    assert record["image"] == IMAGES["cpu"]
    assert record["results"]["student"] == f"students/{student.name}"


def test_a_run_that_the_plan_refuses_fails(runner: Path) -> None:
    with pytest.raises(RuntimeError, match=r"FAILURE.*Inner task failed.*'plan'"):
        compiled()(**form(teacher_sha256="0" * 64))


def test_the_home_folder_takes_whatever_user(made: Images) -> None:
    asked = 'touch "$HOME/here"; test "$HOME" = "$PWD"; command -v mktemp; python3 -c "import getpass; getpass.getuser()"'
    for user in ("12345:0", "10001:0"):
        made.docker("run", "--rm", "--user", user, "--network", "none", *mounted(made), IMAGES["cpu"], "sh", "-ec", asked)


def mounted(made: Images) -> list[str]:
    return [word for host, place in made.mounts.items() for word in ("--volume", f"{host}:{place}:ro")]


def test_a_digest_is_what_a_registry_serves_and_not_the_images_id(
    thin: Images, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the digest that the builder writes down the same image is pulled, wherever its name has moved to; by its id none is."""
    docker, name = thin.docker, f"{registry.host}/team/tools-python:0.1.0"
    docker("tag", IMAGES["tools"], name)
    docker("push", name)
    monkeypatch.setenv("DOCKER_HOST", docker.address)
    table = tmp_path / "images.yaml"
    table.write_text("cpu: a.example.com/x:1.0.0\ntools: " + name)
    write_digest(table, "tools", Engine().digest(name))
    pinned = yaml.safe_load(table.read_text())["tools"]
    assert faults_of(pinned) == ""
    identity = docker("inspect", "--format", "{{.Id}}", name).stdout.strip()
    repository = name.rpartition(":")[0]
    docker("rmi", name)
    assert docker("pull", f"{repository}@{identity}", check=False).returncode != 0
    docker("pull", pinned)
    assert docker("inspect", "--format", "{{.Id}}", f"{repository}@{pinned.rpartition('@')[2]}").stdout.strip() == identity


@pytest.mark.soak
def test_an_image_says_what_it_holds(real: Images) -> None:
    for row, title in {"cpu": "distillery-runtime", "gpu": "distillery-runtime", "tools": "distillery-tools"}.items():
        found = labels_of(real.docker, IMAGES[row])
        assert found["distillery.code_version"] == code_version()
        assert found["org.opencontainers.image.title"] == title
        assert found["org.opencontainers.image.version"] == IMAGES[row].rpartition(":")[2]


@pytest.mark.soak
def test_the_tools_have_no_torch_and_compile(real: Images) -> None:
    assert real.run(IMAGES["tools"], ["python3", "-c", "import torch"], env={}, writable={}).returncode == 1
    asked = 'distillery --help; distillery compile --out "$(mktemp -d)"'
    done = real.run(IMAGES["tools"], ["sh", "-ec", asked], env={}, writable={})
    assert done.returncode == 0, done.stderr
    assert "online_distillation.yaml" in done.stdout
