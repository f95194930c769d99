"""`distillery upload`, `schedule`, `submit` and `cluster-runs` as a person or a chart's job gives them."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distillery.plain_yaml import write_yaml
from distillery.storage import FolderStore
from distillery_kfp.pipelines.cli import app as cli
from distillery_kfp.pipelines.registrar import access
from distillery_kfp.pipelines.registrar.api import RIGHTS
from kubeflow_api import FakeKubeflow
from kubeflow_places import HOST, PARAMETERS, WEEKLY, packed
from kubeflow_table import OPERATIONS
from made_up_runs import MadeUp

ROOT = Path(__file__).parents[4]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeKubeflow, tmp_path: Path) -> Iterator[Call]:
    """Give a command; its exit code, what it prints and what it complains of. Kubeflow is where the environment says."""
    for name in (access.UI, access.NAMESPACE, access.TOKEN_PATH, "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(access.TOKEN, "right")
    fake.tokens = ("right",)

    def give(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["distillery", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    with fake.serve() as url:
        monkeypatch.setenv(access.ENDPOINT, url)
        yield give
    assert fake.violations == []


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """Two packages and a file of schedules."""
    for name in ("learn-weekly", "learn-daily"):
        packed(tmp_path / "compiled", name)
    (tmp_path / "schedules.yaml").write_text(write_yaml({"owner": "team", "schedules": [WEEKLY]}))
    return tmp_path / "compiled"


def test_packages_are_uploaded_and_found_again(call: Call, compiled: Path, fake: FakeKubeflow) -> None:
    code, out, _ = call("upload", str(compiled), "--release", "1.4.0")
    assert code == 0
    assert re.findall(r"^(\S+-1\.4\.0)-[0-9a-f]{12}  uploaded", out, flags=re.MULTILINE) == [
        "learn-daily-1.4.0",
        "learn-weekly-1.4.0",
    ]
    code, out, _ = call("upload", str(compiled / "learn-weekly.yaml"), "--release", "1.4.0")
    assert (code, out.count("was there"), len(fake.versions)) == (0, 1, 2)


def test_schedules_are_brought_to_what_the_file_says(call: Call, compiled: Path, fake: FakeKubeflow, tmp_path: Path) -> None:
    words = ("schedule", "schedules.yaml", "--packages", str(compiled), "--release", "1.4.0")
    assert call(*words, "--dry-run")[:2] == (0, "weekly  would be created\n")
    assert fake.recurring == {}
    assert call(*words)[:2] == (0, "weekly  created\n")
    assert call(*words)[:2] == (0, "weekly  as it was\n")
    packed(compiled, old=HOST, new=f"{HOST}v2/")
    code, out, _ = call(*words, "--dry-run")
    assert code == 0
    assert re.fullmatch(r"weekly  would be replaced\n  version: (learn-weekly-1\.4\.0-\w{12}) -> (?!\1)\S+\n", out)
    assert call(*words)[1].startswith("weekly  replaced\n")
    (tmp_path / "schedules.yaml").write_text(write_yaml({"owner": "team", "schedules": []}))
    assert call(*words)[:2] == (0, "weekly  disabled\n")
    assert [run["mode"] for run in fake.recurring.values()] == ["DISABLE"]


def test_a_run_is_submitted_and_gone_on_with(call: Call, compiled: Path, fake: FakeKubeflow, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(write_yaml(PARAMETERS))
    code, out, _ = call("submit", "compiled/learn-weekly.yaml", "--params", "params.yaml", "--release", "1.4.0")
    [run] = fake.runs
    assert code == 0
    assert re.fullmatch(rf"run   {run}\npage  http://127\.0\.0\.1:\d+/#/runs/details/{run}\n", out)
    assert fake.runs[run]["display_name"].startswith("learn-weekly-1.4.0-")
    fake.runs[run]["state"] = "FAILED"
    code, out, _ = call("submit", "--again", run)
    assert (code, len(fake.runs)) == (0, 2)
    assert run not in out


def test_runs_are_listed_and_closed(
    call: Call, compiled: Path, fake: FakeKubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("cluster-runs")[:2] == (0, "The experiment 'distillery' has no runs.\n")
    (tmp_path / "params.yaml").write_text(write_yaml(PARAMETERS))
    call("submit", "compiled/learn-weekly.yaml", "--params", "params.yaml")
    [run] = fake.runs
    fake.runs[run].update(state="FAILED", finished_at="2026-01-05T03:00:00Z")
    MadeUp(tmp_path, FolderStore(tmp_path / "store")).run(run)
    assert re.search(rf"{run} +\S+ +FAILED +open", call("cluster-runs", "--store", "store")[1])
    monkeypatch.setenv("DISTILLERY_STORE", "store")
    [row] = json.loads(call("cluster-runs", "--json")[1])
    assert (row["run"], row["state"], row["record"], row["mlflow"]) == (run, "FAILED", "open", "")
    assert call("cluster-runs", "--close")[:2] == (0, f"{run}  FAILED  told record\n")
    assert call("cluster-runs", "--close")[:2] == (0, "")
    assert re.search(rf"{run} +\S+ +FAILED +failed", call("cluster-runs")[1])


def test_the_rights_are_those_of_the_requests(call: Call, compiled: Path, fake: FakeKubeflow, tmp_path: Path) -> None:
    """What each command asks for in all its ways, and no more; the guide shows the same."""
    (tmp_path / "params.yaml").write_text(write_yaml(PARAMETERS))
    (tmp_path / "none.yaml").write_text(write_yaml({"owner": "team", "schedules": []}))
    packages = ("--packages", "compiled")
    ways: list[tuple[str, ...]] = [("upload", "compiled"), ("schedule", "schedules.yaml", *packages)]
    ways += [("submit", "compiled/learn-weekly.yaml", "--params", "params.yaml"), ("cluster-runs",)]
    asked: dict[str, set[str]] = {}

    def give(*words: str) -> None:
        before = len(fake.made)
        assert call(*words)[0] == 0
        asked.setdefault(words[0], set()).update(fake.made[before:])

    for words in ways:
        for table in (fake.pipelines, fake.versions, fake.experiments, fake.recurring, fake.runs):
            table.clear()
        give(*words)
        give(*words)
        if words[0] == "schedule":
            packed(compiled, old=HOST, new=f"{HOST}v2/")
            give(*words, "--dry-run")
            give(*words)
            give("schedule", "none.yaml", *packages)
        for run in fake.runs.values():
            run["state"] = "FAILED"
        if words[0] == "submit":
            give("submit", "--again", next(iter(fake.runs)))
    asked["submit"].add("list_runs")  # where nobody knows whether a run was begun
    asked["cluster-runs"] |= {"list_runs", "get_run"}  # with runs, and with --close
    rights = {operation.name: operation.right for operation in OPERATIONS}
    needed = {command: {f"{resource} {verb}" for resource, verbs in said.items() for verb in verbs} for command, said in RIGHTS.items()}
    assert {command: {rights[name] for name in names} for command, names in asked.items()} == needed
    guide = (ROOT / "docs/guides/schedules.md").read_text()
    for command, said in RIGHTS.items():
        listed = "; ".join(f"{resource}: {', '.join(verbs)}" for resource, verbs in said.items())
        assert f"| `{command}` | {listed} |" in guide


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("submit",), "give a PACKAGE.yaml, or --again RUN"),
        (("submit", "--again", "a", "--params", "params.yaml"), "leave --params"),
        (("submit", "compiled/learn-weekly.yaml"), "params.source_uri is missing"),
        (("submit", "compiled/learn-weekly.yaml", "--params", "nothing.yaml"), "'nothing.yaml' cannot be read"),
        (("submit", "compiled"), "cannot be read"),
        (("cluster-runs", "--store", "nowhere"), "no store at 'nowhere'"),
        (("upload", "nowhere"), "'nowhere' cannot be read"),
        (("upload", "compiled", "--release", "A B"), "--release 'A B'"),
        (("upload", "compiled", "--host", "kubeflow"), "--host = 'kubeflow'"),
        (("upload", "compiled", "--host", "http://kubeflow.example.net"), "together with a token"),
        (("schedule", "schedules.yaml", "--packages", "nowhere"), "'nowhere' cannot be read"),
        (("schedule", "nothing.yaml", "--packages", "compiled"), "'nothing.yaml' cannot be read"),
        (("schedule", "five.yaml", "--packages", "compiled"), "has 5 fields"),
        (("schedule", "unknown.yaml", "--packages", "compiled"), "did you mean 'seed'"),
    ],
)
def test_wrong_use_is_one_line_and_asks_nothing(
    call: Call, compiled: Path, fake: FakeKubeflow, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    for name, change in (("five", {"cron": "0 3 * * 1"}), ("unknown", {"parameters": {**PARAMETERS, "sed": 1}})):
        (tmp_path / f"{name}.yaml").write_text(write_yaml({"owner": "team", "schedules": [{**WEEKLY, **change}]}))
    code, out, err = call(*words)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith("distillery: ")
    assert said in err
    assert fake.made == []


def test_the_guides_files_and_commands_work(call: Call, fake: FakeKubeflow, tmp_path: Path) -> None:
    """All but compiling, for which the golden stands that they name, and the last block, which asks for a server."""
    guide = (ROOT / "docs/guides/schedules.md").read_text()
    for name, text in re.findall(r"```yaml\n# (\w+\.yaml)(.*?)```", guide, flags=re.DOTALL):
        (tmp_path / name).write_text(f"# {text}")
    (tmp_path / "compiled").mkdir()
    golden = ROOT / "tests/pipelines/golden/generative_distillation.yaml"
    (tmp_path / "compiled" / golden.name).write_text(golden.read_text().replace("registry.example.com/", HOST))
    blocks = re.findall(r"```sh\n(.*?)```", guide, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert [line for line in lines if not line.startswith("distillery ")] == [lines[-1]]
    given = [line.split()[1:] for line in lines[:-1] if not line.startswith("distillery compile")]
    assert len(given) == 7
    for words in given:
        for run in fake.runs.values():
            run["state"] = "FAILED"
        code, out, err = call(*(next(iter(fake.runs)) if word == "RUN" else word for word in words))
        assert (code, err) == (0, ""), words
    assert len(fake.runs) == 2
    assert [run["mode"] for run in fake.recurring.values()] == ["ENABLE"]


def test_a_server_that_refuses_is_one_line(call: Call, compiled: Path, fake: FakeKubeflow) -> None:
    fake.tokens = ("another",)
    code, out, err = call("upload", str(compiled))
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "does not know who asks" in err


def test_the_registrar_needs_neither_torch_nor_kfp() -> None:
    code = (
        "import pkgutil, sys, importlib, distillery_kfp.pipelines.registrar as room\n"
        "for found in pkgutil.iter_modules(room.__path__, room.__name__ + '.'): importlib.import_module(found.name)\n"
        "print([name for name in ('torch', 'kfp', 'kfp_server_api', 'mlflow', 'boto3', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
