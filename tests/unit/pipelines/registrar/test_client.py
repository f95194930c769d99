"""What is asked of the server and what comes back: who asks, what is repeated, and what is said where it goes wrong."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distillery.errors import ConfigError, DistilleryError, MissingResourceError
from distillery_kfp.pipelines.registrar import access
from distillery_kfp.pipelines.registrar.access import IN_CLUSTER, Access, find_access
from distillery_kfp.pipelines.registrar.api import KubeflowApi
from distillery_kfp.pipelines.registrar.client import UNSURE, Answer, Client, Request
from kubeflow_api import FakeKubeflow
from kubeflow_places import asked

OUTSIDE = "https://kubeflow.example.net/pipeline"


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (access.ENDPOINT, access.UI, access.NAMESPACE, access.TOKEN, access.TOKEN_PATH, "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(access, "PROJECTED", tmp_path / "projected")


def answering(*answers: Answer | Exception) -> tuple[Client, list[Request]]:
    """A client of a server that answers so, one after the other, and what it was asked."""
    seen: list[Request] = []
    rest = list(answers)

    def send(request: Request) -> Answer:
        seen.append(request)
        found = rest.pop(0) if len(rest) > 1 else rest[0]
        if isinstance(found, Exception):
            raise found
        return found

    return Client(Access(OUTSIDE, token=lambda: "secret-of-mine"), send, (0, 0)), seen


def test_outside_the_address_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="give --host, or set KF_PIPELINES_ENDPOINT"):
        find_access()
    monkeypatch.setenv(access.ENDPOINT, f"{OUTSIDE}/")
    assert find_access().endpoint == OUTSIDE
    assert find_access("https://other.example.net").endpoint == "https://other.example.net"
    assert find_access().page_of("a") == f"{OUTSIDE}/#/runs/details/a"
    monkeypatch.setenv(access.UI, "https://ui.example.net")
    assert find_access().page_of("a") == "https://ui.example.net/#/runs/details/a"


def test_inside_it_is_kubeflows_own_service_with_the_projected_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    access.PROJECTED.write_text("first\n")
    found = find_access()
    assert found.endpoint == IN_CLUSTER
    assert found.token() == "first"
    access.PROJECTED.write_text("second\n")
    assert found.token() == "second"


def test_a_token_comes_from_a_file_or_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_access(OUTSIDE).token() == ""
    monkeypatch.setenv(access.TOKEN, "of the environment")
    assert find_access(OUTSIDE).token() == "of the environment"
    (tmp_path / "token").write_text("of the file")
    monkeypatch.setenv(access.TOKEN_PATH, str(tmp_path / "token"))
    assert find_access(OUTSIDE).token() == "of the file"
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        find_access(OUTSIDE)


@pytest.mark.parametrize(
    ("address", "pod", "allowed"),
    [
        ("https://kubeflow.example.net", False, True),
        ("http://localhost:8888", False, True),
        ("http://127.0.0.1:8888", False, True),
        ("http://kubeflow.example.net", False, False),
        ("http://kubeflow.example.net", True, False),
        ("http://ml-pipeline.kubeflow.svc:8888", False, False),
        ("http://ml-pipeline.kubeflow.svc:8888", True, True),
        ("http://ml-pipeline:8888", True, True),
        ("http://ml-pipeline.kubeflow.svc.cluster.local.example.net:8888", True, False),
    ],
)
def test_no_token_goes_where_others_can_read_it(monkeypatch: pytest.MonkeyPatch, address: str, pod: bool, allowed: bool) -> None:
    if pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    find_access(address)
    monkeypatch.setenv(access.TOKEN, "secret")
    if allowed:
        assert find_access(address).endpoint == address
    else:
        with pytest.raises(ConfigError, match="together with a token"):
            find_access(address)


@pytest.mark.parametrize("address", ["kubeflow", "ftp://a", "https://", "https://me:pw@a", "https://a?b=c", "https://a:b", "https://a#b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        find_access(address)


def test_a_token_that_was_replaced_is_read_again() -> None:
    tokens = iter(["old", "new", "new"])
    fake = FakeKubeflow(tokens=("new",))
    assert asked(fake, lambda: next(tokens)).pipeline("a") is None
    assert fake.made == ["get_pipeline_by_name"] * 2


def test_a_token_that_is_not_taken_is_said_and_not_told() -> None:
    fake = FakeKubeflow(tokens=("right",))
    with pytest.raises(ConfigError, match="does not know who asks") as caught:
        asked(fake, lambda: "secret-of-mine").pipeline("a")
    assert "secret-of-mine" not in str(caught.value)
    assert len(fake.made) == 2


def test_no_redirection_is_followed_and_no_page_taken_for_an_answer() -> None:
    client, seen = answering(Answer(302, b"", "https://login.example.net/auth"))
    with pytest.raises(MissingResourceError, match=r"on to login\.example\.net"):
        client.call("GET", "/apis/v2beta1/runs")
    assert len(seen) == 1
    client, _ = answering(Answer(200, b"<html>Sign in</html>"))
    with pytest.raises(MissingResourceError, match="something else than JSON"):
        client.call("GET", "/apis/v2beta1/runs")
    client, _ = answering(Answer(200, b"[]"))
    with pytest.raises(MissingResourceError, match="something else than JSON"):
        client.call("GET", "/apis/v2beta1/runs")


def test_over_the_network_a_redirection_is_not_followed_either() -> None:
    reached = []

    class Leading(FakeKubeflow):
        def send(self, request: Request) -> Answer:
            reached.append(request)
            return Answer(307, b"{}")

    with Leading().serve() as url:
        client = Client(Access(url, token=lambda: "secret"), pauses=())
        with pytest.raises(MissingResourceError, match="sends GET /apis"):
            client.call("GET", "/apis/v2beta1/runs")
    assert len(reached) == 1


def test_over_plain_http_no_proxy_reads_the_token(fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeKubeflow()
    with proxy.serve() as between, fake.serve() as url:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, between)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert KubeflowApi(Client(Access(url, token=lambda: "secret"), pauses=())).pipeline("a") is None
    assert (fake.made, proxy.made, proxy.violations) == (["get_pipeline_by_name"], [], [])


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(400, b'{"message": "bad\\n thing"}'), ConfigError, "status 400: bad thing"),
        (Answer(403, b'{"error_message": "no rights"}'), ConfigError, "does not allow GET .*no rights"),
        (Answer(404, b"<html>"), MissingResourceError, "has nothing at GET"),
        (Answer(409, b"{}"), ConfigError, "status 409: no reason given"),
    ],
)
def test_a_refusal_is_one_sentence(answer: Answer, kind: type[DistilleryError], words: str) -> None:
    client, seen = answering(answer)
    with pytest.raises(kind, match=words) as caught:
        client.call("GET", "/apis/v2beta1/runs")
    assert "\n" not in str(caught.value)
    assert len(seen) == 1


@pytest.mark.parametrize("failure", [Answer(500, b""), Answer(503, b"{}"), Answer(429, b""), ConnectionResetError("reset"), TimeoutError()])
def test_what_may_be_repeated_is_tried_again(failure: Answer | Exception) -> None:
    client, seen = answering(failure, failure, Answer(200, b'{"a": 1}'))
    assert client.call("GET", "/x").document == {"a": 1}
    assert len(seen) == 3
    client, seen = answering(failure)
    with pytest.raises(MissingResourceError, match="does not do its work"):
        client.call("GET", "/x")
    assert len(seen) == 3
    client, seen = answering(failure)
    assert client.call("POST", "/x", body={}, repeat=False).status == UNSURE
    assert len(seen) == 1


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with FakeKubeflow().serve() as url:
        pass
    with pytest.raises(MissingResourceError, match=f"{url}.* does not do its work"):
        Client(Access(url), pauses=()).call("GET", "/x")


def test_lists_are_read_to_their_end(fake: FakeKubeflow) -> None:
    api = asked(fake)
    for number in range(5):
        api.create_experiment(f"experiment {number}")
    found = list(api._list("/apis/v2beta1/experiments", "experiments", {}))
    assert [row["display_name"] for row in found] == [f"experiment {number}" for number in range(5)]
    assert fake.made.count("list_experiments") == 3
    assert (api.experiment("experiment 4") or {})["display_name"] == "experiment 4"
    assert api.experiment("experiment") is None
    assert list(asked(FakeKubeflow()).recurring_runs()) == []


def test_a_list_without_end_is_given_up() -> None:
    client, seen = answering(Answer(200, json.dumps({"runs": [{}], "next_page_token": "a"}).encode()))
    with pytest.raises(MissingResourceError, match="again and again"):
        list(KubeflowApi(client).runs())
    assert len(seen) == 2


def test_where_people_share_it_a_namespace_is_sent() -> None:
    fake = FakeKubeflow(multi_user=True)
    mine, others = (asked(fake, namespace=name) for name in ("mine", "others"))
    assert mine.create_pipeline("a", "") is not None
    assert mine.create_pipeline("a", "") is None
    assert others.pipeline("a") is None
    assert others.create_pipeline("a", "") is not None
    assert mine.create_experiment("b") is not None
    assert list(mine.recurring_runs()) == list(mine.runs()) == []
    assert fake.violations == []


def test_a_run_that_works_outlives_its_schedule(fake: FakeKubeflow) -> None:
    asked(fake).delete_recurring_run("gone")
    assert fake.violations == []


@pytest.fixture
def served(fake: FakeKubeflow) -> Iterator[Callable[[], KubeflowApi]]:
    """The fake over HTTP."""
    with fake.serve() as url:
        yield lambda: KubeflowApi(Client(Access(url, token=lambda: "right"), pauses=(0,)))


def test_over_the_network_it_is_the_same(fake: FakeKubeflow, served: Callable[[], KubeflowApi]) -> None:
    fake.tokens = ("right",)
    api = served()
    made = api.create_pipeline("a-b", "what & why = 5 %")
    assert made is not None
    assert (api.pipeline("a-b") or {})["description"] == "what & why = 5 %"
    body = b"pipelineInfo: {name: a-b}\r\nroot: {}\r\n"
    version = api.upload_version(made["pipeline_id"], "a-b-1", body, "d")
    assert version is not None
    assert version["pipeline_spec"]["pipeline_spec"]["pipelineInfo"] == {"name": "a-b"}
    assert [found["name"] for found in api.versions(made["pipeline_id"])] == ["a-b-1"]
    fake.failure = lambda number, name: "lost"
    assert api.client.call("POST", "/apis/v2beta1/experiments", body={"display_name": "b"}, repeat=False).status == UNSURE
    assert [found["display_name"] for found in fake.experiments.values()] == ["b"]
