"""From a student back to the teacher: every link of the chain found by hash, hashed again where it can be reached, or named as broken.

Nothing is trusted for where it lies: what a document names by sha256 is compared with the bytes, and what two documents say of the same
thing is compared with each other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from distillery.errors import ConfigError, DistilleryError, MissingResourceError, StoreError
from distillery.evaluation.report import flat_metrics, load_report
from distillery.grammar import counted
from distillery.ledger.behind import Behind
from distillery.ledger.behind_statistics import SUFFIX, audit_statistics
from distillery.ledger.evidence import Link, agree, broken, check_bundle, fetch, find_link, keep, match
from distillery.ledger.origins import Origin, maker_of
from distillery.models.bundle import DOCUMENT, WEIGHTS
from distillery.provenance import Provenance, sha256_bytes
from distillery.storage import Store, open_store
from distillery.tracking.protocol import SERVED_FILE, Version
from distillery.tracking.versions import fetch_files, find_version, parse_reference
from distillery.workbench.lineage import evaluation_of, find_record, student_of

_SHA256 = re.compile("[0-9a-f]{64}")


def audit(subject: str, store_uri: str = "") -> tuple[Link, ...]:
    """Walk from a student to its teacher and hash everything on the way.

    Args:
        subject: `name:version`, `name@alias` or `models:/name/version` of the registry, the folder or URI of a bundle, or a file of
            statistics of each class.
        store_uri: where runs, sets and checkpoints lie; "" takes the store that the version names, or that the bundle lies in.

    Returns:
        The links, from the student's side to the teacher's.

    Raises:
        StoreError: a link is broken, and the sentence names it; or the registry does not answer.
        MissingResourceError: there is no such version, or no copy of the student can be read.
        ConfigError: the subject is neither.
    """
    is_folder = "://" not in subject and Path(subject).expanduser().is_dir()
    with TemporaryDirectory() as scratch:
        if not is_folder and parse_reference(subject):
            return _of_version(find_version(subject), store_uri, Path(scratch)).links()
        if subject.endswith(SUFFIX):
            return audit_statistics(subject, store_uri, Path(scratch))
        if is_folder or "://" in subject:
            return _of_bundle(subject, store_uri, Path(scratch)).links()
    raise ConfigError(
        f"{subject!r} is neither a folder nor a version: give name:number, name@alias, a bundle's folder or URI, or a file of statistics."
    )


def _of_version(version: Version, store_uri: str, scratch: Path) -> "_Walk":
    uri = store_uri or version.tags.get("store", "")
    store = open_store(uri) if uri else None
    own = Origin(store, version.tags.get("pipeline_run_id", ""))
    walk = _Walk(scratch, own, version.tags.get("student_sha256", ""), version=version)
    try:
        walk.files = fetch_files(version, scratch / "version")
    except DistilleryError as error:
        walk.unfetched = str(error)
    else:
        walk.places.append((open_store(str(walk.files)), "bundle/"))
    return walk


def _of_bundle(uri: str, store_uri: str, scratch: Path) -> "_Walk":
    place = open_store(uri)
    root, _, name = place.uri.rpartition("/")
    inside = root.endswith("/students") and bool(_SHA256.fullmatch(name))
    where = store_uri or (root.removesuffix("/students") if inside else "")
    return _Walk(scratch, Origin(open_store(where) if where else None), name if inside else "", places=[(place, "")])


@dataclass
class _Walk:
    """What is known so far.

    Attributes:
        scratch: a temporary folder.
        own: the run that made the student.
        named: the student's hash by the registry or by the name of its folder; "" where neither says it.
        version: in the registry.
        files: of the version; None where they were not fetched, which `unfetched` explains.
        places: copies of the student's bundle: a store and the prefix of the keys in it.
        sha256: the student's.
        made: where the student comes from.
    """

    scratch: Path
    own: Origin
    named: str
    version: Version | None = None
    files: Path | None = None
    unfetched: str = ""
    places: list[tuple[Store | None, str]] = field(default_factory=list)
    sha256: str = ""
    made: Provenance = field(default_factory=lambda: Provenance(code_version=""))

    def links(self) -> tuple[Link, ...]:
        """Every link in turn; the run's record is read first, for it says where the others lie."""
        run, refusal = self._first_run()
        if self.version is not None:
            self.places += self._stored()
        student = find_link("student", "its weights, and what they were made from", self._student)
        if student.state != "ok":
            raise MissingResourceError(f"No copy of the student can be read: {student.note}")
        registry = []
        if self.version is not None:
            registry.append(find_link("version", f"{self.version.name} version {self.version.number}", self._version))
            registry.append(find_link("served model", "the file that a model server loads", self._served))
        if refusal is not None:
            raise refusal
        if run.state == "ok":
            run = find_link("run", run.what, self._run)
        rest = Behind(self.scratch, self.own, self.made).links()
        if self.version is None:
            return (student, run, *rest)
        find_link("version", "its tags", lambda link: self._check_tags(rest))
        return (*registry, student, find_link("report", "what the student reached", self._report), run, *rest)

    def _first_run(self) -> tuple[Link, StoreError | None]:
        """The run as far as its record can be read; a break is told after those of the student and its version."""
        try:
            return find_link("run", "recipe, settings and parameters, enough to run it again", self._find_run), None
        except StoreError as error:
            self.own.missed = str(error)
            return Link(name="run", what=""), error

    def _find_run(self, link: Link) -> None:
        """The record of the run and those of its steps."""
        try:
            if self.version is None:
                self.own.id = self._maker()
            if not self.own.id:
                raise MissingResourceError("Its version names no run, so nothing says where the rest lies.")
            self.own.read()
        except MissingResourceError as error:
            self.own.missed = str(error)
            raise

    def _stored(self) -> list[tuple[Store | None, str]]:
        """The student in the store of its run."""
        return [(self.own.store, f"{student_of(self.named)}/")] if _SHA256.fullmatch(self.named) and self.own.run else []

    def _maker(self) -> str:
        """The newest run in the store whose result is the bundle that is audited."""
        place, prefix = self.places[0]
        sha256 = sha256_bytes(fetch(place, prefix + DOCUMENT))
        if self.named not in ("", sha256):
            raise MissingResourceError("The bundle is not the one that its folder is called after.")
        return maker_of(self.own.store, "student", student_of(sha256))

    def _student(self, link: Link) -> None:
        notes = [self.unfetched] if self.unfetched else []
        for store, prefix in self.places:
            try:
                document = fetch(store, prefix + DOCUMENT)
            except MissingResourceError as error:
                notes.append(str(error))
                continue
            assert store is not None
            place = f"{store.uri}/{prefix}".rstrip("/")
            self._check_name(sha256_bytes(document), place)
            record = find_record(self.own.steps, "student", sha256_bytes(document))
            others = record.outputs["student"] if record else {}
            files = {name: fetch(store, prefix + name) for name in {DOCUMENT, WEIGHTS, *others}}
            link.what, self.made = check_bundle(keep(self.scratch / "student", files), place)
            for name, sha256 in others.items():
                match(files[name], sha256, f"{name} in {place!r}", "its run recorded")
            link.sha256 = self.sha256 = sha256_bytes(document)
            link.where = link.where or (place if store is self.own.store or self.version is None else f"models:/{self._name}")
        if not self.sha256:
            raise MissingResourceError(" ".join(notes) or "nothing says where one lies.")

    @property
    def _name(self) -> str:
        assert self.version is not None
        return f"{self.version.name}/{self.version.number}"

    def _check_name(self, found: str, place: str) -> None:
        """Refuse a bundle that is not the one that was named; where the run's record is on its side, the name was changed."""
        if self.named in ("", found):
            return
        if self.version is not None and find_record(self.own.steps, "student", found):
            raise broken("version", f"its tag student_sha256 says {self.named}, but its files and its run's record say {found}")
        who = "the version's tag names" if self.version is not None else "its folder is called"
        raise StoreError(f"{DOCUMENT} in {place!r} has sha256 {found}, but {who} {self.named}")

    def _version(self, link: Link) -> None:
        assert self.version is not None
        version, tags = self.version, self.version.tags
        link.what = f"{link.what}, {' and '.join(version.aliases) or 'without alias'}"
        link.sha256, link.where = self.sha256, f"{version.registry}, MLflow run {version.run_id}"
        inputs = {f"input.{name}": sha256 for name, sha256 in self.made.inputs.items()}
        teacher = self.made.inputs.get("teacher", "")
        agree({"student_sha256": self.sha256, "teacher_sha256": teacher, "run_id": version.run_id, **inputs}, tags, "its tag")

    def _check_tags(self, links: Sequence[Link]) -> None:
        """What the version says of the rest of the chain, once that is known."""
        assert self.version is not None
        found = {link.name: link.sha256 for link in links if link.state == "ok"}
        outputs = {"set": "set", "synthesizer": "generator", "statistics": "statistics"}
        agree({f"{output}_sha256": found[name] for output, name in outputs.items() if name in found}, self.version.tags, "its tag")

    def _served(self, link: Link) -> None:
        assert self.version is not None
        link.sha256, link.where = self.version.tags.get("served_sha256", ""), f"models:/{self._name}"
        if self.files is None:
            raise MissingResourceError(self.unfetched)
        if not link.sha256 and not (self.files / SERVED_FILE).exists():
            link.state, link.note = "unused", "its network cannot be traced, so the version holds the bundle only"
            return
        match(fetch(open_store(str(self.files)), SERVED_FILE), link.sha256, SERVED_FILE, "the version's tag says")

    def _report(self, link: Link) -> None:
        assert self.version is not None
        tags = self.version.tags
        name, link.sha256 = tags.get("metric", ""), tags.get("report_sha256", "")
        if self.own.missed:
            raise MissingResourceError(self.own.missed)
        key = evaluation_of(self.own.id)
        link.where = self.own.place(key)
        data = match(fetch(self.own.store, key), link.sha256, repr(key), "the version's tag says")
        report = load_report(keep(self.scratch, {"evaluation.json": data}) / "evaluation.json")
        if report.student.sha256 not in ("", self.sha256):
            raise StoreError(f"{key!r} is about student {report.student.sha256}, not {self.sha256}")
        number = repr(flat_metrics(report).get(name))
        if tags.get("value") != number:
            raise broken("version", f"its tag value says {name} = {tags.get('value')}, but the report says {number}")
        link.what = f"{name} {float(number):.4f} on {counted(report.images, 'image')}: {report.source}"

    def _run(self, link: Link) -> None:
        own = self.own
        link.where, link.sha256 = own.place(own.key), sha256_bytes(fetch(own.store, own.key))
        result = own.run.get("results", {}).get("student", student_of(self.sha256))
        agree({"student": student_of(self.sha256)}, {"student": result}, repr(own.key))
        agree({"teacher": self.made.inputs.get("teacher", "")}, own.planned.inputs, repr(own.key))
        own.recorded("student", self.sha256, self.made)
        method = own.planned.config.get("synthesis", {}).get("method", "")
        link.what = f"{own.run['pipeline']}{f' with {method}' if method else ''}, planned {own.run['planned']}"
