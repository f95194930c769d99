"""From a file of statistics of each class back to the teacher: what an audit of a student does, begun at such a file."""

from pathlib import Path

from distillery.errors import ConfigError, MissingResourceError
from distillery.ledger.behind import Behind
from distillery.ledger.evidence import Link, agree, fetch, find_link, keep, match
from distillery.ledger.origins import Origin, maker_of
from distillery.models.bundle import DOCUMENT, WEIGHTS, BundleInfo, read_bundle
from distillery.provenance import Provenance, sha256_bytes
from distillery.statistics.counts import tell_measured
from distillery.statistics.moments import Moments, load_moments, read_origin
from distillery.storage import open_store
from distillery.workbench.lineage import class_statistics_of

SUFFIX = ".safetensors"
_BUNDLE = "shown"


def audit_statistics(uri: str, store_uri: str, scratch: Path) -> tuple[Link, ...]:
    """Walk from statistics of each class to their teacher and hash everything on the way.

    Args:
        uri: of the file.
        store_uri: of the run that measured them; "" takes the store that the file lies in.
        scratch: a temporary folder.

    Raises:
        StoreError: a link is broken.
        MissingResourceError: there is no such file.
    """
    folder, _, name = open_store(uri).uri.rpartition("/")
    inside = folder.removesuffix("/statistics") if folder.endswith("/statistics") else ""
    walk = _Walk(folder, name, Origin(open_store(store_uri or inside) if store_uri or inside else None), scratch)
    return walk.links()


class _Walk:
    """What is known so far."""

    def __init__(self, folder: str, name: str, own: Origin, scratch: Path) -> None:
        self.folder, self.name, self.own, self.scratch = folder, name, own, scratch
        self.sha256 = ""
        self.moments: Moments
        self.made: Provenance

    def links(self) -> tuple[Link, ...]:
        """Every link in turn."""
        first = find_link("class statistics", "", self._file)
        if first.state != "ok":
            raise MissingResourceError(first.note)
        run = find_link("run", "recipe, settings and parameters, enough to run it again", self._run)
        find_link("teacher", "", self._show)
        assert self.moments.counts is not None, "they are of each class"
        counts = self.moments.counts.tolist()
        shown = self._info.class_names if self._info else tuple(map(str, range(len(counts))))
        measured_on = next((name for name in ("data", "set") if name in self.made.inputs), "")
        first.what = f"BatchNorm moments of {len(self.moments.mean)} layers; {tell_measured(counts, shown, measured_on)}"
        return (first, run, *Behind(self.scratch, self.own, self.made, _BUNDLE).links())

    @property
    def _info(self) -> BundleInfo | None:
        place = self.scratch / _BUNDLE
        return read_bundle(place)[0] if (place / DOCUMENT).is_file() else None

    def _file(self, link: Link) -> None:
        data = fetch(open_store(self.folder), self.name)
        link.where = f"{self.folder}/{self.name}"
        link.sha256 = self.sha256 = sha256_bytes(data)
        if self.own.store is not None and link.where == f"{self.own.store.uri}/{class_statistics_of(self.name.removesuffix(SUFFIX))}":
            match(data, self.name.removesuffix(SUFFIX), self.name, "it is called")
        path = keep(self.scratch, {self.name: data}) / self.name
        self.made = read_origin(path)
        self.moments = load_moments(path, self.made.inputs.get("teacher", ""))
        if self.moments.counts is None:
            raise ConfigError(f"{self.name} holds the teacher's own moments, which come from its bundle: audit those of each class")

    def _run(self, link: Link) -> None:
        own = self.own
        try:
            own.id = maker_of(own.store, "statistics", class_statistics_of(self.sha256))
            own.read()
        except MissingResourceError as error:
            own.missed = str(error)
            raise
        link.where, link.sha256 = own.place(own.key), sha256_bytes(fetch(own.store, own.key))
        agree({"teacher": self.made.inputs.get("teacher", "")}, own.planned.inputs, repr(own.key))
        own.recorded("class_statistics", self.sha256, self.made)
        method = own.planned.config.get("synthesis", {}).get("method", "")
        link.what = f"{own.run['pipeline']}{f' with {method}' if method else ''}, planned {own.run['planned']}"

    def _show(self, link: Link) -> None:
        """Fetch the teacher's bundle for the names of its classes; whether it is the right one, the last link of the chain says."""
        if self.own.missed:
            raise MissingResourceError(self.own.missed)
        place = open_store(str(self.own.run["parameters"]["teacher_uri"]))
        keep(self.scratch / _BUNDLE, {name: fetch(place, name) for name in (DOCUMENT, WEIGHTS)})
