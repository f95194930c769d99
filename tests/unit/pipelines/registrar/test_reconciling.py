"""Schedules on the server as the file says them, alone or beside others, whatever fails and wherever it stops."""

import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import ConfigError, DistilleryError, StoreError
from distillery_kfp.pipelines.registrar.api import KubeflowApi
from distillery_kfp.pipelines.registrar.package import PipelinePackage, read_package
from distillery_kfp.pipelines.registrar.reconciling import ROUNDS, apply, compare
from distillery_kfp.pipelines.registrar.schedules import Wanted, mark_of
from kubeflow_api import FakeKubeflow
from kubeflow_places import HOST, Place, asked, packed, scheduled

OWNER = "team"


@pytest.fixture
def mine(place: Place, package: PipelinePackage) -> Callable[..., Wanted]:
    """A schedule of this test alone."""

    def make(**said: Any) -> Wanted:
        return scheduled(place.named(package), **{"name": f"weekly-{place.suffix}", "owner": f"team-{place.suffix}", **said})

    return make


def standing(api: KubeflowApi, wanted: Wanted) -> list[dict[str, Any]]:
    """The recurring runs of a schedule's name."""
    return [run for run in api.recurring_runs() if run["display_name"] == wanted.schedule.name]


def settled(place: Place, wanted: Wanted) -> dict[str, Any]:
    """The one recurring run, after it was applied."""
    apply(place.api, wanted.owner, [wanted])
    [run] = standing(place.api, wanted)
    assert mark_of(run["description"]) == (wanted.owner, wanted.sha256)
    assert run["mode"] == ("ENABLE" if wanted.schedule.enabled else "DISABLE")
    return run


def verbs(api: KubeflowApi, wanted: Wanted) -> list[str]:
    return [change.verb for change in compare(api, wanted.owner, [wanted])]


def test_a_schedule_is_made_once_and_left_alone(place: Place, mine: Callable[..., Wanted]) -> None:
    wanted = mine()
    assert verbs(place.api, wanted) == ["create"]
    first = settled(place, wanted)
    assert first["no_catchup"] is True
    assert first["max_concurrency"] == "1"
    assert first["plugins_input"] == {"mlflow": {"experiment_name": "distillery"}}
    assert verbs(place.api, wanted) == ["leave"]
    assert settled(place, wanted)["recurring_run_id"] == first["recurring_run_id"]


def test_a_dry_run_changes_nothing_and_says_what_would_change(fake: FakeKubeflow, package: PipelinePackage) -> None:
    api, first = asked(fake), scheduled(package)
    assert [change.verb for change in compare(api, OWNER, [first])] == ["create"]
    assert [fake.pipelines, fake.experiments, fake.recurring] == [{}, {}, {}]
    apply(api, OWNER, [first])
    before = {identity: dict(run) for identity, run in fake.recurring.items()}
    later = scheduled(package, cron="0 0 4 * * 1", release="1.5.0", parameters={"seed": 1}, no_catchup=False)
    [change] = compare(api, OWNER, [later])
    assert change.verb == "replace"
    assert change.differences == (
        "cron: '0 0 3 * * 1' -> '0 0 4 * * 1'",
        "no_catchup: True -> False",
        "parameters.seed: nothing -> 1",
        f"version: {first.version} -> {later.version}",
    )
    assert fake.recurring == before
    assert fake.made[-6:].count("create_recurring_run") == 0


@pytest.mark.parametrize(
    "said",
    [
        {"cron": "0 0 4 * * 1"},
        {"no_catchup": False},
        {"parameters": {"seed": 1}},
        {"release": "1.5.0"},
        {"plugins_input": {"mlflow": {"disabled": True}}},
        {"service_account": "runner"},
        {"pipeline_root": "s3://runs/root"},
    ],
    ids=lambda said: next(iter(said)),
)
def test_whatever_differs_makes_another_recurring_run(place: Place, mine: Callable[..., Wanted], said: dict[str, Any]) -> None:
    first = settled(place, mine())
    assert verbs(place.api, mine(**said)) == ["replace"]
    second = settled(place, mine(**said))
    assert second["recurring_run_id"] != first["recurring_run_id"]


def test_an_upgrade_pins_the_new_version(place: Place, mine: Callable[..., Wanted], package: PipelinePackage, tmp_path: Path) -> None:
    first = settled(place, mine())
    newer = place.named(read_package(packed(tmp_path, old=HOST, new=f"{HOST}v2/")))
    wanted = scheduled(newer, name=f"weekly-{place.suffix}", owner=f"team-{place.suffix}")
    second = settled(place, wanted)
    before, after = (run["pipeline_version_reference"]["pipeline_version_id"] for run in (first, second))
    found = place.api.version(second["pipeline_version_reference"]["pipeline_id"], after)
    assert before != after
    assert found is not None
    assert found["display_name"] == newer.version("1.4.0")


def test_switching_makes_no_other_recurring_run(place: Place, mine: Callable[..., Wanted]) -> None:
    first = settled(place, mine())
    assert verbs(place.api, mine(enabled=False)) == ["disable"]
    off = settled(place, mine(enabled=False))
    assert verbs(place.api, mine()) == ["enable"]
    on = settled(place, mine())
    assert first["recurring_run_id"] == off["recurring_run_id"] == on["recurring_run_id"]


def test_what_stands_in_the_file_no_more_is_disabled(place: Place, mine: Callable[..., Wanted]) -> None:
    kept, dropped, other = mine(), mine(name=f"monthly-{place.suffix}"), mine(name=f"daily-{place.suffix}", owner=f"others-{place.suffix}")
    apply(place.api, kept.owner, [kept, dropped])
    apply(place.api, other.owner, [other])
    assert [(change.name, change.verb) for change in compare(place.api, kept.owner, [kept])][1:] == [(dropped.schedule.name, "disable")]
    apply(place.api, kept.owner, [kept])
    assert [standing(place.api, wanted)[0]["mode"] for wanted in (kept, dropped, other)] == ["ENABLE", "DISABLE", "ENABLE"]
    before = standing(place.api, dropped)[0]["recurring_run_id"]
    apply(place.api, kept.owner, [kept, dropped])
    [again] = standing(place.api, dropped)
    assert (again["recurring_run_id"], again["mode"]) == (before, "ENABLE")


def test_one_made_by_hand_is_not_touched(fake: FakeKubeflow, package: PipelinePackage) -> None:
    api, wanted = asked(fake), scheduled(package)
    apply(api, OWNER, [wanted])
    [run] = fake.recurring.values()
    run["description"] = "my own"
    before = dict(run)
    with pytest.raises(ConfigError, match="no registrar made"):
        apply(api, OWNER, [scheduled(package, cron="0 0 4 * * 1")])
    assert list(fake.recurring.values()) == [before]


def test_one_that_was_copied_by_hand_is_replaced(fake: FakeKubeflow, package: PipelinePackage) -> None:
    """Kubeflow's page copies the description too, and a pipeline that was deleted and made again has other ids."""
    api, wanted = asked(fake), scheduled(package)
    for change in (
        {"trigger": {"cron_schedule": {"cron": "0 * * * * *"}}},
        {"no_catchup": False},
        {"pipeline_version_reference": {"pipeline_id": "gone", "pipeline_version_id": "gone"}},
    ):
        apply(api, OWNER, [wanted])
        [run] = fake.recurring.values()
        run.update(change)
        assert verbs(api, wanted) == ["replace"]
        apply(api, OWNER, [wanted])
        [fresh] = fake.recurring.values()
        assert fresh["recurring_run_id"] != run["recurring_run_id"]


@pytest.mark.parametrize("how", ["before", "after", "lost"])
def test_whichever_request_fails_there_is_one_schedule(package: PipelinePackage, how: str) -> None:
    first, second = scheduled(package), scheduled(package, cron="0 0 4 * * 1")
    apply(asked(count := FakeKubeflow()), OWNER, [first])
    began = len(count.made)
    apply(asked(count), OWNER, [second])
    for failing in range(began, len(count.made)):
        server = FakeKubeflow(failure=lambda number, name, failing=failing: how if number == failing else "")  # type: ignore[misc]
        apply(asked(server), OWNER, [first])
        apply(asked(server), OWNER, [second])
        check_end(server, second)


@pytest.mark.parametrize("how", ["before", "after"])
def test_wherever_it_stops_for_good_it_goes_on_later(package: PipelinePackage, how: str) -> None:
    first, second = scheduled(package), scheduled(package, cron="0 0 4 * * 1")
    apply(asked(count := FakeKubeflow()), OWNER, [first])
    began = len(count.made)
    apply(asked(count), OWNER, [second])
    for stopped in range(began, len(count.made)):
        down = [True]

        def failure(number: int, name: str, stopped: int = stopped, down: list[bool] = down) -> str:
            return (how if number == stopped else "before") if down[0] and number >= stopped else ""

        server = FakeKubeflow(failure=failure)  # type: ignore[arg-type]
        apply(asked(server), OWNER, [first])
        with pytest.raises(DistilleryError, match="does not do its work|all the time"):
            apply(asked(server), OWNER, [second])
        assert server.recurring, "neither the old one nor the new one is there"
        down[0] = False
        apply(asked(server), OWNER, [second])
        check_end(server, second)


def check_end(server: FakeKubeflow, wanted: Wanted) -> None:
    """One is there, as wanted; never were two enabled."""
    [run] = server.recurring.values()
    assert mark_of(run["description"])[1] == wanted.sha256
    assert run["mode"] == "ENABLE"
    assert max(server.most_enabled.values()) == 1
    assert server.violations == []


class Turns:
    """Lets two registrars make their requests in an order that is given: `True` is the first one's turn."""

    def __init__(self, order: Iterator[bool]) -> None:
        self._order, self._turn = order, True
        self._changed = threading.Condition()
        self._done: set[bool] = set()
        self._turn = next(order)

    def wait(self, who: bool) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn is who or (not who) in self._done, timeout=30)

    def took(self) -> None:
        with self._changed:
            self._turn = next(self._order, not self._turn)
            self._changed.notify_all()

    def leave(self, who: bool) -> None:
        with self._changed:
            self._done.add(who)
            self._changed.notify_all()


def interleaved(server: FakeKubeflow, wanted: tuple[Wanted, Wanted], order: Iterator[bool]) -> list[DistilleryError]:
    """Two registrars at once; what stopped them."""
    turns, errors = Turns(order), []

    def work(who: bool) -> None:
        api = asked(server)
        send = api.client._send

        def in_turn(request: Any) -> Any:
            turns.wait(who)
            try:
                return send(request)
            finally:
                turns.took()

        api.client._send = in_turn
        try:
            apply(api, OWNER, [wanted[not who]])
        except DistilleryError as error:
            errors.append(error)
        finally:
            turns.leave(who)

    threads = [threading.Thread(target=work, args=(who,)) for who in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def orders(calls: range) -> Iterator[Iterator[bool]]:
    """The first works up to some request, then the second up to some request, then each to its end, one of them first or in turns."""
    for first, second, how in product(calls, calls, ("first", "turns")):
        rest = [True] * 60 if how == "first" else [True, False] * 60
        yield iter([True] * first + [False] * second + rest)


@pytest.fixture(scope="module")
def calls(package: PipelinePackage) -> range:
    """How many requests of a replacement are over when what it does to recurring runs begins, and so on until all are."""
    server = FakeKubeflow()
    apply(asked(server), OWNER, [scheduled(package)])
    before = len(server.made)
    apply(asked(server), OWNER, [scheduled(package, cron="0 0 4 * * 1")])
    made = server.made[before:]
    return range(made.index("create_recurring_run") - 1, len(made) + 1)


def settled_server(package: PipelinePackage) -> FakeKubeflow:
    server, numbers = FakeKubeflow(), iter(range(10_000))
    server.ids = lambda: f"{(7919 * next(numbers)) % 9973:04d}"  # in no order, so that an id does not say which was first
    apply(asked(server), OWNER, [scheduled(package)])
    return server


def test_two_registrars_of_one_file_make_one_schedule(package: PipelinePackage, calls: range) -> None:
    wanted = scheduled(package, cron="0 0 4 * * 1")
    for order in orders(calls):
        server = settled_server(package)
        assert interleaved(server, (wanted, wanted), order) == []
        check_end(server, wanted)


def test_two_registrars_of_different_files_leave_one_schedule_or_say_so(package: PipelinePackage, calls: range) -> None:
    wanted = scheduled(package, cron="0 0 4 * * 1"), scheduled(package, cron="0 0 5 * * 1")
    for order in orders(calls):
        server = settled_server(package)
        errors = interleaved(server, wanted, order)
        assert all(isinstance(error, StoreError) for error in errors)
        assert max(server.most_enabled.values()) == 1
        if len(errors) < 2:
            [run] = server.recurring.values()
            assert run["mode"] == "ENABLE"
            assert mark_of(run["description"])[1] in {item.sha256 for item in wanted}
        apply(asked(server), OWNER, wanted[:1])
        check_end(server, wanted[0])


def test_somebody_who_changes_it_all_the_time_is_told_of(package: PipelinePackage) -> None:
    server = settled_server(package)
    wanted = scheduled(package, cron="0 0 4 * * 1")

    def undo(number: int) -> None:
        for run in server.recurring.values():
            run["mode"] = "DISABLE"

    server.before = undo
    with pytest.raises(StoreError, match="all the time"):
        apply(asked(server), OWNER, [wanted])
    assert server.made.count("enable_recurring_run") >= ROUNDS - 2
