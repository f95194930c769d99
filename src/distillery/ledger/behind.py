"""What lies behind a student, or statistics of each class: the images that were used and what made them, back to the teacher, by hash."""

from dataclasses import dataclass, field
from pathlib import Path

from distillery.data.given import load_given, read_facts
from distillery.data.noise import is_noise
from distillery.data.ood import load_ood
from distillery.errors import MissingResourceError, StoreError
from distillery.grammar import counted
from distillery.ledger.evidence import Link, agree, find_bundle, find_link, names
from distillery.ledger.origins import Origin, maker_of_set, read_set
from distillery.models.bundle import BundleInfo, read_bundle
from distillery.provenance import Provenance
from distillery.statistics.counts import tell_measured
from distillery.statistics.moments import load_moments
from distillery.statistics.moments import read_origin as origin_of_moments
from distillery.step_table import STEPS
from distillery.storage import open_store
from distillery.synthesis.bundle import DOCUMENT as SYNTHESIZER
from distillery.synthesis.bundle import SynthesizerState, load_synthesizer, read_synthesizer
from distillery.workbench.lineage import name_together, set_of
from distillery.workbench.synthesizers import check_whole


@dataclass
class Behind:
    """The chain from a student's images to its teacher, as far as it is known.

    Attributes:
        scratch: a temporary folder; a bundle lies in it that has the shape and the classes of the images, such as the student's.
        own: the run that made the student, or whatever else begins the chain.
        made: where that comes from.
        bundle: the name of that bundle's folder.
        source: the run that made its set: the same, but where the set was there before.
        synthesizers: hashes by the set, one or those of an ensemble; "" stands for what its own step wrote.
        statistics: hash by the generator, or by the set where there was none; None where that was not reached.
        inverted: the set was made without a generator.
        ood: images of another domain by hash, and where: whatever used some names them.
    """

    scratch: Path
    own: Origin
    made: Provenance
    bundle: str = "student"
    source: Origin = field(init=False)
    synthesizers: tuple[str, ...] = ("",)
    statistics: str | None = None
    inverted: bool = False
    ood: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source = self.own
        self._mixed(self.made, self.own)

    def links(self) -> list[Link]:
        """Every link in turn; each is what it is by what the ones before it found."""
        given = next((self.made.inputs[name] for name in ("data", "images", "noise") if name in self.made.inputs), "")
        if given:
            rest = [find_link("images", "the images that it was given to train on", lambda link: self._images(link, given))]
        else:
            rest = [
                find_link("set", "the synthetic images that it was trained on", self._set),
                find_link("generator", "what made the images", self._generator),
                find_link("statistics", "BatchNorm moments of the teacher", self._statistics),
            ]
        if self.ood:  # by what was looked at so far
            rest.append(find_link("images of another domain", "real images beside the others", self._ood))
        if "student_start" in self.made.inputs:
            rest.append(find_link("weights to begin with", "a network trained before", self._weights))
        return [*rest, find_link("teacher", "the network that it learned from", self._teacher)]

    @property
    def _info(self) -> BundleInfo:
        return read_bundle(self.scratch / self.bundle)[0]

    def _set(self, link: Link) -> None:
        own = self.own
        link.sha256 = self.made.inputs.get("set", "")  # a student that was trained while its set grew does not name it: its step does
        record = own.recorded("set", link.sha256)
        link.sha256 = record.sha256("set")
        who = "the student names" if "set" in self.made.inputs else "the step that made both names"
        if STEPS[record.step].opens_its_set:
            link.where = self._given(link.sha256)
            self.source = Origin(None, missed=f"The set {link.where!r}, in whose store its run lies, was not reached.")
            manifest = read_set(open_store(link.where), "", link.where, link.sha256, who)
            self.source = maker_of_set(link.where, link.sha256)
        else:
            link.where = own.place(set_of(record.key))
            manifest = read_set(own.store, f"{set_of(record.key)}/", link.where, link.sha256, who)
        self._of_this_teacher(manifest.teacher_sha256)
        link.what = (
            f"{counted(manifest.images, 'image')} to train on, {manifest.holdout:,} held out, {counted(len(manifest.shards), 'shard')}"
        )
        self.synthesizers = manifest.synthesizers or ("",)
        self._mixed(manifest.provenance, self.source)
        if self.source.missed:  # the set is whole, and its own run is asked for by the links after it
            return
        record = self.source.recorded("set", link.sha256, manifest.provenance)
        if not manifest.synthesizers and "synthesizer" not in STEPS[record.step].writes:
            self.statistics, self.inverted = manifest.provenance.inputs.get("statistics", ""), True

    def _images(self, link: Link, sha256: str) -> None:
        link.sha256 = sha256
        record = self.own.recorded("set", "")
        facts = read_facts(self.own.outputs(record, "set", self.scratch))
        link.where = self._given(sha256)
        agree({"sha256": sha256}, {"sha256": facts.sha256}, f"the step {record.step}")
        _reach(link.where)
        info = self._info
        found = load_given(link.where, info.spec, facts.classes or info.class_names, facts.labels)
        if found.digest != sha256:
            raise StoreError(f"those at {link.where!r} have sha256 {found.digest}, but the student names {sha256}")
        labels = "with their labels" if facts.labels else "read without labels"
        kind = "images of noise, drawn again" if is_noise(link.where) else f"images that were there before, {labels}"
        link.what = f"{len(found.images):,} {kind}"

    def _given(self, sha256: str) -> str:
        """Where what the run was given to train on lies, by its record."""
        source = self.own.run.get("source", {})
        agree({"sha256": sha256}, source, repr(self.own.key))
        return str(source["uri"])

    def _mixed(self, made: Provenance, origin: Origin) -> None:
        """Note images of another domain that something was made with."""
        if sha256 := made.inputs.get("ood", ""):
            self.ood[sha256] = str(origin.run.get("parameters", {}).get("synth_ood_uri", ""))

    def _generator(self, link: Link) -> None:
        if self.inverted:
            link.state, link.note = "unused", "the images were made from nothing, one by one"
            return
        found: dict[str, SynthesizerState] = {}
        for sha256 in self.synthesizers:
            link.sha256 = sha256
            record = self.source.recorded("synthesizer", sha256)
            link.sha256, where = record.sha256("synthesizer"), self.source.place(record.at("synthesizer", SYNTHESIZER))
            link.where = f"{link.where}, {where}".removeprefix(", ")
            made = read_synthesizer(folder := self.source.outputs(record, "synthesizer", self.scratch))[0].provenance
            self.source.recorded("synthesizer", link.sha256, made)
            self._mixed(made, self.source)
            found[link.sha256] = load_synthesizer(folder, self.made.inputs.get("teacher", ""))
            if self.statistics not in (None, read := made.inputs.get("statistics", "")):
                raise StoreError(f"the shares of the ensemble name different statistics: {self.statistics} and {read}")
            self.statistics = read
        first, *_ = states = sorted(found.values(), key=lambda state: state.share.first)
        check_whole(states, first.share.total)
        link.sha256 = name_together(found)
        shards = counted(len(states), "shard")
        several = f"the {first.share.total} generators that made the images, {shards} of them" * (first.share.total > 1)
        link.what = f"{several or 'what made the images'}, of {first.method}"

    def _statistics(self, link: Link) -> None:
        link.sha256 = self.statistics or ""
        if self.statistics == "":
            link.state, link.note = "unused", "the method reads none"
            return
        if self.statistics is None:
            raise MissingResourceError("The generator, which names them, was not reached.")
        record = self.source.recorded("statistics", self.statistics)
        link.where = self.source.place(record.at("statistics", ""))
        file = self.source.outputs(record, "statistics", self.scratch) / "file"
        moments = load_moments(file, self.made.inputs.get("teacher", ""))
        origin = origin_of_moments(file)
        self.source.recorded("statistics", self.statistics, origin)
        given = f", as given in a file with sha256 {origin.inputs['moments']}" if "moments" in origin.inputs else ""
        link.what = f"{moments.kind} BatchNorm moments of {counted(len(moments.mean), 'layer')} of the teacher{given}"
        if moments.counts is not None:
            measured_on = str(origin.config.get("measured_on", ""))
            link.what += f"; {tell_measured(moments.counts.tolist(), self._info.class_names, measured_on)}"

    def _ood(self, link: Link) -> None:
        link.sha256 = ", ".join(sorted(self.ood))
        if missed := self.own.missed or self.source.missed:
            raise MissingResourceError(missed)
        link.where, images = ", ".join(dict.fromkeys(self.ood.values())), 0
        for sha256, where in self.ood.items():
            _reach(where)
            found = load_ood(where, self._info.spec)
            if found.digest != sha256:
                raise StoreError(f"those at {where!r} have sha256 {found.digest}, but what was made with them names {sha256}")
            images += len(found.images)
        link.what = f"{images:,} real images of another domain than the teacher's, out-of-distribution (OOD) ones"

    def _teacher(self, link: Link) -> None:
        link.sha256 = self.made.inputs.get("teacher", "")
        if self.own.missed:
            raise MissingResourceError(self.own.missed)
        link.where = str(self.own.run["parameters"]["teacher_uri"])
        find_bundle(link, self.scratch / "teacher", "the student names")

    def _weights(self, link: Link) -> None:
        link.sha256 = self.made.inputs["student_start"]
        if self.own.missed:
            raise MissingResourceError(self.own.missed)
        link.where = str(self.own.run["parameters"].get("student_start_uri", ""))
        made = find_bundle(link, self.scratch / "weights", "the student names")
        link.what += f"; made from {', '.join(sorted(made.inputs)) or 'nothing that it names'}"

    def _of_this_teacher(self, sha256: str) -> None:
        agree({"teacher": self.made.inputs.get("teacher", "")}, {"teacher": sha256}, "it")


def _reach(uri: str) -> None:
    """Ask the store that images lie in for anything: a server that is down is no break."""
    if "://" in uri and not is_noise(uri):
        names(open_store(uri), "")
