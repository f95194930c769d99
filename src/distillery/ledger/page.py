"""What the page of a run shows, gathered from the store: every part by itself, so that one that is missing costs nothing but itself."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from distillery.data.given import is_of_images, read_facts
from distillery.data.manifest import synthesizers_in
from distillery.data.noise import is_noise
from distillery.data.reference import open_reference, open_set, read_reference
from distillery.data.store import SyntheticSet
from distillery.engine.checkpoint import Checkpoints
from distillery.errors import DistilleryError, MissingResourceError
from distillery.evaluation.health import FILE as HEALTH
from distillery.evaluation.health import HealthReport, load_health
from distillery.evaluation.report import EvaluationReport
from distillery.evaluation.report import read_origin as report_origin
from distillery.grammar import counted
from distillery.ledger.runs import read_run
from distillery.methods.catalog import METHODS
from distillery.models.bundle import DOCUMENT, read_origin
from distillery.models.bundle import FORMAT as BUNDLE
from distillery.provenance import Provenance, code_version, sha256_bytes, sha256_file
from distillery.recipes.sections import Section
from distillery.reporting.page import ClassStatistics, LineageEntry, PageData, RunRecord, SetFacts
from distillery.reporting.pictures import ClassPicture, sample_classes
from distillery.reporting.real_images import RealImages, find_real_images
from distillery.reporting.words import count
from distillery.statistics.moments import parse_moments
from distillery.step_table import LAST, STEPS, Artifact, makers_of
from distillery.step_version import step_version
from distillery.storage import Store, open_store
from distillery.tracking.history import History, read_history, together
from distillery.workbench.keys import keys_of
from distillery.workbench.lineage import evaluation_of, find_record, name_together, read_records, student_of
from distillery.workbench.weights import FIELD

T = TypeVar("T")


@dataclass
class PageCollector:
    """Where the parts of a page are looked for.

    Attributes:
        store: of the run.
        section: of the step that writes the page.
        report: the evaluation.
        report_path: its file.
        teacher_uri: of the teacher's bundle.
        student_path: the student's bundle.
        set_path: folder with the reference to the synthetic set.
        missing: part -> why it is not shown; filled as parts are looked for.
    """

    store: Store
    section: Section
    report: EvaluationReport
    report_path: Path
    teacher_uri: str
    student_path: Path
    set_path: Path
    missing: dict[str, str] = field(default_factory=dict)

    def collect(self) -> PageData:
        """Everything that could be found."""
        run = self._attempt("command", self._run, RunRecord())
        found = self._attempt("samples", self._set, None)
        samples: tuple[ClassPicture, ...] = ()
        if self._is_given:
            self.missing["samples"] = "They stay where they are: nothing of them is kept beside the student but their hash."
            self.missing["health"] = "The images were not made up, so no generator could have collapsed."
            if not read_facts(self.set_path).holdout:
                self.missing["training"] = "Nothing was held out of the images, so the student was looked at after its training only."
        if found is not None:
            samples = self._attempt("samples", lambda: sample_classes(found, self.report.class_names), samples)
        histories: dict[str, History] = {}
        histories = self._attempt("cost", lambda: self._histories(run, found), histories)
        lineage: tuple[LineageEntry, ...] = ()
        lineage = self._attempt("lineage", lambda: self._lineage(run, found), lineage)
        method = self._method(run)
        return PageData(
            report=self.report,
            recipe=next((str(section.get("recipe", "")) for section in STEPS[LAST].planned(run.sections)), ""),
            method=METHODS[method].title if method in METHODS else method,
            run=run,
            set=_facts(found) if found else SetFacts(),
            samples=samples,
            histories=histories,
            health=None if self._is_given else self._attempt("health", self._health, None),
            statistics=self._attempt("statistics", lambda: self._class_statistics(run), None),
            lineage=lineage,
            real=self._attempt("real images", lambda: self._real(run, found), None),
            code_version=code_version(),
            hardware=self._hardware(),
            epochs=self._epochs(),
            config=run.recipe or {"student": self._student.config, "set": found.manifest.provenance.config if found else {}},
            missing=self.missing,
        )

    def _attempt(self, part: str, look: Callable[[], T], otherwise: T) -> T:
        try:
            return look()
        except DistilleryError as error:
            self.missing[part] = str(error)
            return otherwise

    def _given(self) -> LineageEntry:
        facts = read_facts(self.set_path)
        if is_noise(uri := read_reference(self.set_path).uri):
            what = f"{counted(facts.images, 'image')} of noise, drawn from a seed; no picture was needed for them."
            return LineageEntry(name="Noise", sha256=facts.sha256, what=what, where=uri)
        labels = "with their labels" if facts.labels else "read without labels"
        what = f"{counted(facts.images, 'picture')} that were there before, {labels}; no step made them."
        return LineageEntry(name="Given pictures", sha256=facts.sha256, what=what, where=uri)

    def _real(self, run: RunRecord, found: SyntheticSet | None) -> RealImages:
        drawn = found.manifest.provenance if found else None
        return find_real_images(self._student, drawn, run.sections, self._started(run), self._begun(run))

    def _started(self, run: RunRecord) -> Provenance | None:
        """Where the set comes from that the pool began with; None where there was none, or it is not where the run had it any more."""
        uri, sha256 = str(run.parameters.get("synth_start_uri", "")), self._student.inputs.get("start", "")
        if not (uri and sha256):
            return None
        try:
            began = open_set(uri, self.section.teacher_sha256)
        except DistilleryError:
            return None
        return began.manifest.provenance if began.digest == sha256 else None

    def _begun(self, run: RunRecord) -> Provenance | None:
        """Where the weights come from that the student began with; None where there were none, or they are not where the run had them."""
        uri, sha256 = str(run.parameters.get(FIELD, "")), self._student.inputs.get("student_start", "")
        if not (uri and sha256):
            return None
        try:
            data = open_store(uri).read(DOCUMENT)
        except DistilleryError:
            return None
        return BUNDLE.read(data, uri).provenance if sha256_bytes(data) == sha256 else None

    def _run(self) -> RunRecord:
        identity = os.environ.get("KFP_RUN_ID", "")
        key = f"runs/{identity}/run.json"
        if not identity or not self.store.exists(key):
            raise MissingResourceError("The step ran without a pipeline around it, so no command is known that makes this run again.")
        document = read_run(self.store.read(key), key)
        said = document.fields
        return RunRecord(
            id=identity,
            pipeline=said["pipeline"],
            planned=said["planned"],
            parameters=said["parameters"],
            recipe=document.provenance.config,
            sections=said["sections"],
            image=said.get("image", ""),
            environment=said.get("environment", {}),
        )

    @property
    def _is_given(self) -> bool:
        """Whether the student was trained on real images, and no set."""
        return is_of_images(self.set_path)

    def _set(self) -> SyntheticSet | None:
        return None if self._is_given else open_reference(self.set_path, self.section.teacher_sha256)

    def _health(self) -> HealthReport:
        return load_health(self.set_path / HEALTH)

    @cached_property
    def _student(self) -> Provenance:
        return read_origin(self.student_path)

    def _class_statistics(self, run: RunRecord) -> ClassStatistics | None:
        """Those that the run was given; the step that took them up has left them under its key."""
        planned = next(iter(STEPS["extract_statistics"].planned(run.sections)), {})
        if planned.get("kind") != "per_class":
            return None
        record = find_record(read_records(self.store, run.id), "statistics")
        if record is None:
            raise MissingResourceError("The step that took the teacher's statistics up has left no record.")
        key = record.at("statistics", "")
        counts = parse_moments(self.store.read(key), key, self.section.teacher_sha256)[0].counts
        return ClassStatistics(counts=() if counts is None else tuple(counts.tolist()), measured_on=str(planned.get("measured_on", "")))

    def _method(self, run: RunRecord) -> str:
        synthesis = run.recipe.get("synthesis", {})
        return str(synthesis.get("method") or self._student.config.get("method") or "")

    def _hardware(self) -> tuple[str, ...]:
        resolved = self._student.config.get("resolved", {})
        return (str(resolved["device"]), str(resolved["precision"])) if {"device", "precision"} <= set(resolved) else ()

    def _epochs(self) -> int:
        numbers: dict[str, float] = {}
        return int(self._attempt("training", self._training, numbers).get("epochs", 0))

    def _training(self) -> dict[str, float]:
        """The numbers of the step that trained the student; empty where that was in another store."""
        done = self._work("student", self._student)[1].finished() or {}
        return dict(done.get("metrics", {}))

    def _histories(self, run: RunRecord, found: SyntheticSet | None) -> dict[str, History]:
        """Of every step that trained or drew something, in the order of the run."""
        made = found.manifest.provenance if found else None
        steps: dict[str, list[Checkpoints]] = {}
        if made is not None:
            for step in makers_of("synthesizer"):
                if synthesizers_in(made.inputs):
                    planned = STEPS[step].planned(run.sections)
                    steps[step] = [self._found([step], _before(step, section, made))[1] for section in planned]
            step, work = self._work("set", made)
            steps[step] = [work]
        step, work = self._work("student", self._student)
        steps[step] = [work]
        read = {step: together([read_history(work.store) for work in works]) for step, works in steps.items()}
        histories = {step: history for step, history in read.items() if history.rounds or history.after}
        if not histories:
            raise MissingResourceError("The histories of the training steps are not in this store.")
        return histories

    def _lineage(self, run: RunRecord, found: SyntheticSet | None) -> tuple[LineageEntry, ...]:
        report, made = self.report, found.manifest.provenance if found else self._student
        statistics = made.inputs.get("statistics", "")
        moments = "BatchNorm moments: what the teacher's layers kept of its training pictures."
        if next(iter(STEPS["extract_statistics"].planned(run.sections)), {}).get("kind") == "per_class":
            moments = "BatchNorm moments of each class: what the teacher's layers saw of pictures of it."
        entries = [
            LineageEntry(name="Teacher", sha256=self.section.teacher_sha256, what=_model(report.teacher), where=self.teacher_uri),
            LineageEntry(name="Statistics", sha256=statistics, what=moments),
            self._generator(found, made),
        ]
        if self._is_given:
            entries = [entries[0], self._given()]
        if found:
            what = f"{counted(found.manifest.images, 'picture')} with the teacher's answers, every file of them named by hash."
            entries.append(LineageEntry(name="Synthetic set", sha256=found.digest, what=what, where=found.store.uri))
        if begun := self._student.inputs.get("student_start", ""):
            what = "The network with whose weights the student began, instead of random ones."
            entries.append(LineageEntry(name="Weights to begin with", sha256=begun, what=what, where=run.parameters.get(FIELD, "")))
        place = f"{self.store.uri}/{student_of(report.student.sha256)}"
        entries.append(LineageEntry(name="Student", sha256=report.student.sha256, what=_model(report.student), where=place))
        if data := report_origin(self.report_path).inputs.get("eval_data"):
            entries.append(
                LineageEntry(
                    name="Test pictures", sha256=data, what=f"{count(report.images)} labelled pictures, read by the last step only."
                )
            )
        where = f"{self.store.uri}/{evaluation_of(run.id)}" if run.id else ""
        entries.append(
            LineageEntry(name="Report", sha256=sha256_file(self.report_path), what="The numbers of this page as JSON.", where=where)
        )
        inverted = found is not None and not synthesizers_in(made.inputs) and "synthesizer" not in STEPS[self._work("set", made)[0]].writes
        unused = ("Statistics", "Generator") if inverted else ("Statistics",)
        return tuple(entry for entry in entries if entry.sha256 or entry.name not in unused)

    def _generator(self, found: SyntheticSet | None, made: Provenance) -> LineageEntry:
        hashes = found.manifest.synthesizers if found else ()
        what = "What made the pictures up, as it was at the end."
        number = found.manifest.provenance.config.get("generators", 1) if found else 1
        if number > 1:
            shards = ", ".join(sha256[:12] for sha256 in hashes)
            what = f"The {number} that made the pictures up, each for some classes, trained in shards by the name of {shards}."
        return LineageEntry(name="Generator", sha256=name_together(hashes) or self._trained_with(found, made), what=what)

    def _trained_with(self, found: SyntheticSet | None, made: Provenance) -> str:
        """The hash of a synthesizer that the step of the set or of the student wrote, too; "" where that is not in the store."""
        done = self._work("set" if found else "student", made)[1].finished() or {}
        return str(done.get("outputs", {}).get("synthesizer", {}).get("synthesizer.json", ""))

    def _work(self, artifact: Artifact, made: Provenance) -> tuple[str, Checkpoints]:
        """Of the steps that can write an artifact the one that did: whose work under its key is in the store; the first where none is."""
        return self._found(makers_of(artifact), made)

    def _found(self, steps: Iterable[str], made: Provenance) -> tuple[str, Checkpoints]:
        """The first of some steps that has work in the store, under any key that it may have."""
        works = [(step, Checkpoints(self.store.below(f"checkpoints/{step}/{key}"))) for step in steps for key in keys_of(step, made)]
        return next(((step, checkpoints) for step, checkpoints in works if checkpoints.store.list("")), works[0])


def _before(step: str, section: Mapping[str, Any], made: Provenance) -> Provenance:
    """The provenance that a synthesizer's step must have had, from its section and the set that was drawn with it."""
    inputs = {name: sha256 for name, sha256 in made.inputs.items() if name not in synthesizers_in(made.inputs)}
    config = {**section, "resolved": made.config.get("resolved", {})}
    return made.model_copy(update={"inputs": inputs, "config": config, "step_version": step_version(step)})


def _facts(found: SyntheticSet) -> SetFacts:
    manifest = found.manifest
    return SetFacts(
        images=manifest.images,
        holdout=manifest.holdout,
        counts=manifest.counts,
        asked=sum(manifest.asked),
        agreed=manifest.agreed,
        shortfall=sum(manifest.shortfall),
    )


def _model(model: Any) -> str:
    return f"{model.name or 'A network'} with {count(model.cost.parameters)} learned numbers."
