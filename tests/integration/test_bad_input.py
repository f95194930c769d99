"""What a platform team meets on the day something is wrong: each fault by the command line, one sentence, exit code 1, nothing changed."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chains import EXPECTS, OVERRIDES, SHARED, Chain, changed, flip, make_teacher
from commands import distillery
from distillery.errors import StoreError
from distillery.steps import register
from distillery.storage.s3 import S3Store, make_client
from s3_servers import Ceph, environment, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DISTILLERY_", "KFP_", "AWS_", "S3_"))}
SETTINGS = [
    word
    for name, value in {**OVERRIDES["ls_gdfd/digits"], **SHARED, **EXPECTS}.items()
    for word in ("--set", f"{name}={json.dumps(value)}")
]
"""What makes a run take seconds, as the command line takes it."""


@dataclass
class Desk:
    """A registered student with everything behind it, another teacher, a picture; and ways to call the command.

    Attributes:
        chain: the student's.
        extra: environment of the commands.
    """

    chain: Chain
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.chain.folder

    @property
    def set(self) -> Path:
        (found,) = Path(self.chain.store, "sets").iterdir()
        return found

    @property
    def published(self) -> Path:
        return Path(self.chain.store, self.chain.key)

    def call(self, *words: object, **extra: str) -> "subprocess.CompletedProcess[str]":
        known = {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}", "DISTILLERY_WORKDIR": str(self.folder / "work")}
        variables = {**CLEAN, "OMP_NUM_THREADS": "1", **known, **self.extra, **extra}
        return subprocess.run(
            [*distillery(), *map(str, words)], capture_output=True, text=True, env=variables, cwd=self.folder, check=False
        )

    def refused(self, *words: object, **extra: str) -> str:
        """The sentence with which a command ends."""
        done = self.call(*words, **extra)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        *waits, sentence = done.stderr.splitlines()
        assert all("is asked again" in line for line in waits), done.stderr
        assert sentence.startswith("distillery: "), sentence
        return sentence

    def run(self, store: object, *more: object) -> list[object]:
        """The words of a run that takes seconds."""
        return [
            "run",
            "ls_gdfd/digits",
            "--teacher",
            self.chain.teacher,
            "--store",
            store,
            "--workdir",
            "work",
            "--threads",
            "1",
            *SETTINGS,
            *more,
        ]

    def tree(self) -> dict[str, str]:
        return tree(Path(self.chain.store))


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder by its hash, and every folder."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        chain = Chain(folder, "ls_gdfd/digits", str(folder / "store")).make()
    make_teacher(folder / "other", seed=1)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "picture.png")
    (folder / "own.yaml").write_text(json.dumps({"extends": "ls_gdfd/digits"}))
    return Desk(chain)


Words = Callable[[Desk], list[object]]


def training(teacher: str) -> Words:
    """A student trained on the set."""
    return lambda desk: ["train-student", "own.yaml", "--teacher", teacher, "--images", desk.set, "--out", "out", *SETTINGS]


OF_SETS: Mapping[str, Words] = {
    "verify": lambda desk: ["verify", desk.set],
    "inspect": lambda desk: ["inspect", desk.set],
    "export": lambda desk: ["export", desk.set, "--format", "imagefolder", "--out", "out"],
    "train-student": training("teacher"),
    "audit": lambda desk: ["audit", "distillery-student:1"],
}
OF_BUNDLES: Mapping[str, Words] = {
    "predict": lambda desk: ["predict", desk.published, "picture.png"],
    "export-student": lambda desk: ["export-student", desk.published, "--out", "out"],
    "evaluate": lambda desk: ["evaluate", desk.published, "--teacher", "teacher", "--data", "absent.npz"],
    "run": lambda desk: [*desk.run("elsewhere"), "--teacher", desk.published],
    "audit": lambda desk: ["audit", "distillery-student:1"],
    "audit of the bundle": lambda desk: ["audit", desk.published],
}


@pytest.mark.parametrize("command", OF_SETS)
def test_a_damaged_shard(command: str, desk: Desk) -> None:
    shard = max(desk.set.glob("shards/*"), key=lambda path: path.stat().st_size)  # one to train on; the held-out ones are small
    with changed(shard, flip(shard.read_bytes())):
        before = desk.tree()
        assert shard.name in desk.refused(*OF_SETS[command](desk))
        assert desk.tree() == before
    assert not (desk.folder / "out").exists()


def test_a_set_of_another_teacher(desk: Desk) -> None:
    before = desk.tree()
    assert "teacher" in desk.refused(*training("other")(desk))
    assert (desk.tree(), (desk.folder / "out").exists()) == (before, False)


@pytest.mark.parametrize("command", OF_BUNDLES)
@pytest.mark.parametrize("file", ["weights.safetensors", "bundle.json"])
def test_a_bundle_with_one_byte_changed(file: str, command: str, desk: Desk) -> None:
    path = desk.published / file
    whole = path.read_bytes()
    place = whole.index(b'"b"') + 1 if file == "bundle.json" else len(whole) - 9  # the name of a class: the file stays valid
    with changed(path, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
        before = desk.tree()
        sentence = desk.refused(*OF_BUNDLES[command](desk))
        assert "sha256" in sentence or "damaged" in sentence
        assert desk.tree() == before
    assert [name for name in ("out", "elsewhere") if (desk.folder / name).exists()] == []


OF_STORES: Mapping[str, Callable[[Desk, str], list[object]]] = {
    "run": lambda desk, uri: desk.run(f"{uri}/store"),
    "runs": lambda desk, uri: ["runs", "--store", f"{uri}/store"],
    "prune": lambda desk, uri: ["prune", "--store", f"{uri}/store", "--yes"],
    "verify": lambda desk, uri: ["verify", f"{uri}/store/sets/one"],
    "predict": lambda desk, uri: ["predict", f"{uri}/student", "picture.png"],
    "teacher": lambda desk, uri: [*desk.run("elsewhere"), "--teacher", f"{uri}/teacher"],
}
FAULTS: Mapping[str, tuple[dict[str, str], str, str]] = {
    "unreachable": ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:{port}", "DISTILLERY_S3_PATIENCE": "1"}, "{bucket}", "cannot be reached"),
    "unknown key": ({"AWS_ACCESS_KEY_ID": "nobody"}, "{bucket}", "does not know the access key 'nobody'"),
    "wrong secret": ({"AWS_SECRET_ACCESS_KEY": "labsecret124"}, "{bucket}", "the secret does not fit the access key 'labaccess'"),
    "missing bucket": ({}, "no-such-bucket", "there is no bucket 'no-such-bucket'"),
}


@pytest.fixture(scope="module")
def uploaded(ceph: Ceph, desk: Desk) -> str:
    """A bucket with a set, a student and a teacher."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(ceph.endpoint).items():
            patch.setenv(name, value)
        make_client().create_bucket(Bucket="takeover")
        for place, folder in (("store/sets/one", desk.set), ("student", desk.published), ("teacher", desk.chain.teacher)):
            for path in (path for path in folder.rglob("*") if path.is_file()):
                S3Store("takeover", place).write(path.relative_to(folder).as_posix(), path.read_bytes())
    return "takeover"


@pytest.mark.parametrize("command", OF_STORES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bucket_that_refuses_or_is_silent(
    fault: str, command: str, desk: Desk, ceph: Ceph, uploaded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(ceph.endpoint).items():
        monkeypatch.setenv(name, value)
    before = S3Store(uploaded).sizes("")
    wrong, bucket, said = FAULTS[fault]
    variables = {name: value.format(port=free_port()) for name, value in wrong.items()}
    words = OF_STORES[command](desk, f"s3://{bucket.format(bucket=uploaded)}")
    sentence = desk.refused(*words, **{**environment(ceph.endpoint), **variables})
    assert said in sentence
    assert "labsecret" not in sentence
    assert S3Store(uploaded).sizes("") == before
    assert not (desk.folder / "elsewhere").exists()


def silent(desk: Desk) -> str:
    return "http://127.0.0.1:9"


def below_a_file(desk: Desk) -> str:
    (desk.folder / "a file").write_text("")
    return f"sqlite:///{desk.folder}/a file/mlflow.db"


def read_only(desk: Desk) -> str:
    copy = desk.folder / "read-only.db"
    shutil.copy(desk.folder / "mlflow.db", copy)
    return f"sqlite:///file:{copy}?mode=ro&uri=true"


IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
UNREGISTERED = "The student was not registered as 'distillery-student'"


@pytest.mark.parametrize("uri", [silent, below_a_file, read_only])
def test_mlflow_that_does_not_take_the_student(uri: Callable[[Desk], str], desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.folder)  # mlflow takes what stands after sqlite:/// for a relative path and makes its folder
    for name, value in {**IMPATIENT, "MLFLOW_TRACKING_URI": uri(desk)}.items():
        monkeypatch.setenv(name, value)
    out, section = desk.folder / desk.chain.run, {**desk.chain.sections["registration"], "salt": uri.__name__}
    before = desk.tree()
    inputs = register.Inputs(student=out / "student", report=out / "report.json")
    with desk.chain.environment(), pytest.raises(StoreError, match=UNREGISTERED):
        register.run(section, inputs, register.Outputs(registration=desk.folder / "no registration.json"))
    assert not (desk.folder / "no registration.json").exists()
    assert {name for name in desk.tree() if "result.json" in name} == {name for name in before if "result.json" in name}


def test_a_run_whose_student_is_not_registered_goes_on_once_mlflow_is_up(desk: Desk) -> None:
    unregistered = desk.folder / "unregistered"
    sentence = desk.refused(*desk.run(unregistered), MLFLOW_TRACKING_URI=silent(desk), **IMPATIENT)
    assert UNREGISTERED in sentence
    (record,) = unregistered.glob("runs/*/run.json")
    assert json.loads(record.read_bytes())["state"]["name"] == "failed"
    assert "results" not in json.loads(record.read_bytes())
    results = {path: path.stat().st_mtime_ns for path in unregistered.glob("checkpoints/*/*/result.json")}
    done = desk.call(*desk.run(unregistered))
    assert done.returncode == 0, done.stderr
    assert len(list((unregistered / "students").iterdir())) == 1
    assert {path: path.stat().st_mtime_ns for path in unregistered.glob("checkpoints/*/*/result.json")} == results  # nothing done twice


def fill(disk: Path, leave: int) -> Path:
    """Take all room of a disk but `leave` bytes."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(b"\0" * max(0, shutil.disk_usage(disk).free - leave))
    return filler


def test_a_store_on_a_full_disk(desk: Desk, small_disk: Path) -> None:
    store = small_disk / "store"
    store.mkdir()
    (store / "kept").write_bytes(b"kept")
    filler = fill(small_disk, 0)
    before = tree(small_disk)
    assert "no space is left" in desk.refused(*desk.run(store))
    assert tree(small_disk) == before
    filler.unlink()

    filler = fill(small_disk, 400_000)  # enough for the plan and the statistics, and for no student
    assert "no space is left" in desk.refused(*desk.run(store))
    assert [path.name for path in store.rglob("*") if path.name.startswith(".") or "tmp" in path.name] == []
    assert not (store / "students").exists()
    results = set(store.glob("checkpoints/*/*/result.json"))
    assert results, "the disk was full too early to show anything"
    filler.unlink()
    done = desk.call("resume", "last", "--store", store, "--workdir", "work")
    assert done.returncode == 0, done.stderr
    assert set(store.glob("checkpoints/*/*/result.json")) > results
    (student,) = (store / "students").iterdir()
    assert student.name == desk.published.name  # bit for bit that of the run that was left alone


@pytest.mark.parametrize(
    "words",
    [
        ["export", "{set}", "--format", "imagefolder", "--out", "{disk}/out"],
        ["export-student", "{student}", "--out", "{disk}/out"],
        ["run", "--workdir", "{disk}/work"],
    ],
    ids=lambda words: words[0],
)
def test_everything_else_on_a_full_disk(words: list[str], desk: Desk, small_disk: Path) -> None:
    fill(small_disk, 0)
    before = tree(small_disk)
    given = [word.format(set=desk.set, student=desk.published, disk=small_disk) for word in words]
    sentence = desk.refused(*(desk.run("elsewhere", *given[1:]) if given[0] == "run" else given))
    assert "no space" in sentence.lower()
    left = {name for name, digest in tree(small_disk).items() if digest} - {name for name, digest in before.items() if digest}
    assert left <= {"work/locks/run.lock"}
    assert not (desk.folder / "elsewhere").exists()
