"""The run behind what an audit meets: its record, what its steps wrote, and which of a store's runs made a student or a set."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery.data.manifest import MANIFEST, SetManifest
from distillery.errors import CheckpointMismatchError, MissingResourceError, StoreError
from distillery.ledger.evidence import fetch, keep, match, names
from distillery.ledger.runs import place_in_store, read_run
from distillery.provenance import Provenance
from distillery.step_table import STEPS
from distillery.storage import Store, open_store
from distillery.workbench.keys import is_planned, keys_of
from distillery.workbench.lineage import StepRecord, find_record, parse_record, records_of


@dataclass
class Origin:
    """A run, as far as it is known.

    Attributes:
        store: of the run; None where nobody names one.
        id: of the run.
        run: its record; empty until that is read.
        planned: where the record comes from.
        steps: what its steps wrote.
        missed: why it was not reached.
    """

    store: Store | None
    id: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    planned: Provenance = field(default_factory=lambda: Provenance(code_version=""))
    steps: tuple[StepRecord, ...] = ()
    missed: str = ""

    @property
    def key(self) -> str:
        """Of its record in the store."""
        return f"runs/{self.id}/run.json"

    def read(self) -> None:
        """Read the record of the run and those of its steps.

        Raises:
            MissingResourceError: the store cannot be asked.
            StoreError: a record is gone or damaged.
        """
        record = read_run(fetch(self.store, self.key), self.key)
        self.run, self.planned = record.fields, record.provenance
        self.steps = _records(self.store, self.id, names(self.store, records_of(self.id)))

    def place(self, key: str) -> str:
        """The address of an object of its store."""
        return f"{self.store.uri}/{key}" if self.store is not None else ""

    def recorded(self, output: str, sha256: str, made: Provenance | None = None) -> StepRecord:
        """The step that wrote an output, by the run's records; its key and settings have to be those that the output itself names.

        Args:
            output: its name.
            sha256: the hash that names it; "" takes any.
            made: the output's own provenance, where it is to be compared.

        Raises:
            MissingResourceError: the run was not reached.
            StoreError: no step has recorded it, or with another key or other settings.
        """
        if self.missed:
            raise MissingResourceError(self.missed)
        record = find_record(self.steps, output, sha256)
        if record is None:
            raise StoreError(f"no step of the run {self.id!r} has recorded that it wrote the {output} {sha256}".rstrip())
        if made is not None:
            if record.key not in keys_of(record.step, made):
                raise StoreError(f"its provenance is not that of {record.step} in the run {self.id!r}")
            if not any(is_planned(made, section) for section in STEPS[record.step].planned(self.run["sections"])):
                raise StoreError(f"it was made with other settings than the run {self.id!r} planned for {record.step}")
        return record

    def outputs(self, record: StepRecord, output: str, folder: Path) -> Path:
        """Local copies of all that a step kept of an output, each with the hash that was recorded.

        Raises:
            MissingResourceError: the store cannot be asked.
            StoreError: one is gone or is another.
        """
        files = {}
        for name, sha256 in record.outputs[output].items():
            key = record.at(output, name)
            files[name or "file"] = match(fetch(self.store, key), sha256, repr(key), "its run recorded")
        return keep(folder / output, files)


def maker_of(store: Store | None, name: str, result: str) -> str:
    """The newest run of a store whose result is a student or a file of statistics.

    Args:
        store: of the run.
        name: what the run's results call it.
        result: where the store holds it.

    Raises:
        MissingResourceError: the store cannot be asked.
        StoreError: no run says so; names the records that could not be read.
    """
    found, unread = _newest(store, lambda run, said: (said.get("results") or {}).get(name) == result)
    if not found:
        place = repr(f"{store.uri}/runs") if store is not None else ""
        raise StoreError(f"no run in {place} says that it made {result}, so it or the run's record was changed{unread}")
    return found


def maker_of_set(uri: str, sha256: str) -> Origin:
    """The run that made a set, in the store that the set lies in; one that could not be reached says why.

    Args:
        uri: of the set.
        sha256: of its manifest.

    Raises:
        StoreError: the run's records are damaged.
    """
    inside = place_in_store(uri)
    if not inside:
        return Origin(None, missed=f"The set {uri!r} lies outside a store, so nothing says which run made it.")
    store = open_store(uri.removesuffix(f"/{inside}"))

    def made_it(run: str, _: dict[str, Any]) -> bool:
        record = find_record(_records(store, run, keys), "set", sha256)
        return record is not None and not STEPS[record.step].opens_its_set

    try:
        keys = names(store, "runs")
        found, unread = _newest(store, made_it)
        if not found:
            return Origin(store, missed=f"No run in '{store.uri}/runs' says that it made the set {sha256}{unread}.")
        origin = Origin(store, found)
        origin.read()
        return origin
    except MissingResourceError as error:
        return Origin(store, missed=str(error))


def read_set(store: Store | None, prefix: str, link_where: str, sha256: str, who: str) -> SetManifest:
    """A set's manifest, once every shard of it is the one that it names.

    Args:
        store: that holds it.
        prefix: before its keys there.
        link_where: its address, for messages.
        sha256: of its manifest.
        who: says so.

    Raises:
        MissingResourceError: the store cannot be asked.
        StoreError: the manifest or a shard is gone or is another.
    """
    data = match(fetch(store, f"{prefix}{MANIFEST}"), sha256, f"{MANIFEST} in {link_where!r}", who)
    manifest = SetManifest.from_bytes(data, link_where)
    for entry in manifest.shards:
        match(fetch(store, f"{prefix}{entry.key}"), entry.sha256, f"the shard {entry.key!r} in {link_where!r}", "its set names")
    return manifest


def _newest(store: Store | None, is_it: Callable[[str, dict[str, Any]], bool]) -> tuple[str, str]:
    """The newest run of which something holds, "" for none, and what was said of records that could not be read."""
    unread = ""
    for key in sorted((key for key in names(store, "runs") if key.endswith("/run.json")), reverse=True):
        run = key.split("/")[1]
        try:
            said = read_run(fetch(store, key), key).fields
        except (StoreError, CheckpointMismatchError) as error:
            unread += f"; {str(error).rstrip('.')}"
            continue
        if is_it(run, said):
            return run, unread
    return "", unread


def _records(store: Store | None, run: str, keys: Iterable[str]) -> tuple[StepRecord, ...]:
    below = f"{records_of(run)}/"
    return tuple(parse_record(fetch(store, key), key) for key in keys if key.startswith(below))
