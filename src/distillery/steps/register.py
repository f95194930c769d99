"""The step that ends a run: the student goes into the store, and into the registry behind the gate between challenger and champion.

It is the one step that fails when MLflow does. Whoever runs the steps, a cluster or one machine, the store is the same afterwards.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from distillery.data.manifest import MANIFEST, SetManifest
from distillery.documents import Format
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.evaluation.report import EvaluationReport, flat_metrics, load_report
from distillery.evaluation.report import read_origin as report_origin
from distillery.grammar import counted
from distillery.ledger.runs import note_results
from distillery.models.bundle import VerifiedBundle, read_bundle
from distillery.models.bundle import read_origin as bundle_origin
from distillery.models.export import export_student, file_name, random_images
from distillery.provenance import sha256_file
from distillery.recipes.sections import RegistrationSection
from distillery.step_table import RegistrationFile, ReportFile, StudentFolder
from distillery.storage import Store, open_store
from distillery.tracking.open import close_parent
from distillery.tracking.protocol import Candidate, Registered, ServedModel
from distillery.workbench.bench import Workbench, workbench
from distillery.workbench.lineage import StepRecord, find_record, name_together, read_records, run_identity, set_of
from distillery.workbench.students import keep_student

log = logging.getLogger(__name__)

FORMAT = Format("distillery-registration", 2, "register the student again")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What it reads.

    Attributes:
        student: that is registered.
        report: of its evaluation.
    """

    student: StudentFolder
    report: ReportFile


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What it writes: what the registry answered, `distillery-registration` JSON."""

    registration: RegistrationFile


def run(section: Mapping[str, Any], inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Keep a student in the store, register it, and note in its run's record where everything lies.

    Where no tracking URI is set, nothing is registered, and the registration says so. May be repeated; of two workers at once the version
    of the first stands.

    Args:
        section: a `RegistrationSection` as plain JSON.
        inputs: what it reads.
        outputs: where it writes.

    Returns:
        Its fields: model_name, model_version ("" where nothing was registered), aliases, metric, value, reason and more.

    Raises:
        StoreError: a tracking URI is set and MLflow did not take the student, the bundle fails its hash, a record of the run is damaged,
            or the store cannot be written.
        CheckpointMismatchError: the report is about another student.
    """
    settings = RegistrationSection.parse(section, "registration")
    student = _verified_student(inputs.student)
    report = load_report(inputs.report)
    if report.student.sha256 not in ("", student):
        raise CheckpointMismatchError(
            f"The report {str(inputs.report)!r} is about student {report.student.sha256}, not {student}: evaluate this student first."
        )
    with workbench("register", settings, {"student": student, "report": sha256_file(inputs.report)}) as bench:
        kept = keep_student(bench.store, inputs.student)  # first: whoever finds a version in the registry finds its student in the store
        candidate = _candidate(
            settings, report, {**_origin(bench, inputs.student, student), "report_sha256": bench.inputs["report"]}, inputs.report
        )
        bench.tracker.metrics({candidate.metric: candidate.value})
        registered = bench.tracker.register(inputs.student, settings.registration, candidate, lambda folder: serve(inputs.student, folder))
        bench.tracker.tags({"student_sha256": student, "teacher_sha256": settings.teacher_sha256})
        bench.tracker.json("registration.json", registered.to_json())
        fields = {"student_sha256": student, **registered.to_json()}
        open_store(str(outputs.registration.parent)).write(outputs.registration.name, FORMAT.write(bench.provenance, fields))
        if run := run_identity():
            note_results(bench.store, run, {"student": kept})
    _tell(registered)
    close_parent("FINISHED")
    return fields


def _verified_student(folder: Path) -> str:
    """The bundle's sha256, after its weights passed their hash."""
    bundle = VerifiedBundle(folder)
    bundle.verify()
    return bundle.sha256


def serve(bundle: Path, folder: Path) -> ServedModel | None:
    """Make the file that a model server loads; None, with a warning, where the student's network cannot be traced.

    Args:
        bundle: the student.
        folder: an empty folder for the file.
    """
    name = file_name("pt2", "float32")
    try:
        made = export_student(bundle, folder / "export", ("pt2",), ("float32",))[name]
    except ConfigError as error:
        log.warning("The version holds the bundle only, and no model server can load it: %s", error)
        return None
    info, _ = read_bundle(bundle)
    example = random_images(1, info.spec.shape).float() / 255
    model = folder / "export" / name
    return ServedModel(
        model=model,
        example=example.numpy(),
        num_classes=info.num_classes,
        requirements=(f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={metadata.version('numpy')}"),
        tags={"served_sha256": sha256_file(model), "served_difference": f"{made.difference:g}"},
    )


def _candidate(settings: RegistrationSection, report: EvaluationReport, origin: Mapping[str, str], report_path: Path) -> Candidate:
    numbers = flat_metrics(report)
    metric: str = settings.registration.metric
    if metric not in numbers and report.compared:
        log.info("The report has no %s (%s): the gate compares agreement with the teacher.", metric, report.source)
        metric = "agreement"
    tags = {
        **origin,
        "teacher_sha256": settings.teacher_sha256,
        "recipe": settings.recipe,
        "config_sha256": settings.digest(),
        "code_version": settings.code_version,
        "pipeline_run_id": run_identity(),
    }
    return Candidate(
        metric=metric,
        value=numbers[metric],
        source=_source(report, report_path),
        tags={name: text for name, text in tags.items() if text},
        description=f"{settings.recipe}: {metric} {numbers[metric]:.4f} on {counted(report.images, 'image')} ({report.source}).",
    )


def _origin(bench: Workbench, bundle: Path, student: str) -> dict[str, str]:
    """The student by hash, what it was made from by the name of the input, what its run made before, and the store that holds it all."""
    inputs = {f"input.{name}": sha256 for name, sha256 in bundle_origin(bundle).inputs.items()}
    run = run_identity()
    records = read_records(bench.store, run) if run else ()
    before = {f"{output}_sha256": find_record(records, output) for output in ("set", "synthesizer", "statistics")}
    made = {tag: record.sha256(tag.removesuffix("_sha256")) for tag, record in before.items() if record}
    if drawn := _ensemble(bench.store, records):
        made["synthesizer_sha256"] = name_together(drawn)
    return {**inputs, **made, "student_sha256": student, "store": bench.store.uri}


def _ensemble(store: Store, records: tuple[StepRecord, ...]) -> tuple[str, ...]:
    """The shares of the ensemble that the run's set was drawn from, as the set says it: a run may hold others, of older code; else ()."""
    made = find_record(records, "set")
    if made is None or len({record.sha256("synthesizer") for record in records} - {""}) < 2:
        return ()
    place = f"{set_of(made.key)}/{MANIFEST}"
    return SetManifest.from_bytes(store.read(place), f"The manifest {place!r} in {store.uri!r}").synthesizers


def _source(report: EvaluationReport, path: Path) -> str:
    """What the number was measured on: a test set by its hash; synthetic ones, new in every run, only by their kind."""
    data = next((sha256 for name, sha256 in sorted(report_origin(path).inputs.items()) if name.startswith("eval")), "")
    return f"{report.source} {data[:12]}".strip() if report.labelled else report.source


def _tell(registered: Registered) -> None:
    if registered.model_version:
        held = " and ".join(registered.aliases)
        log.info("%s version %s is %s. %s", registered.model_name, registered.model_version, held, registered.reason)
    else:
        log.info("%s", registered.reason)
