"""A student's model card in Markdown: every sentence comes from a number, a hash or a name in the files that it is made from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillery.data.manifest import SetManifest
from distillery.errors import CheckpointMismatchError
from distillery.evaluation.health import HealthReport, load_health
from distillery.evaluation.report import EvaluationReport, ModelReport, SnapshotScore, load_report
from distillery.grammar import counted
from distillery.methods.catalog import METHODS
from distillery.models.bundle import BundleInfo, read_bundle, read_origin
from distillery.provenance import Provenance
from distillery.reporting.loading import how_to_load
from distillery.reporting.real_images import find_real_images, tell_real_images
from distillery.reporting.words import interval

_WEAKEST = 3
_NAMED_CLASSES = 100
_ESCAPED = {"&": "&amp;", "<": "&lt;", "|": "\\|", "*": "\\*", "_": "\\_", "`": "\\`", "[": "\\["}


@dataclass(frozen=True)
class CardSources:
    """What a card is made from; what is None is said to be missing, never made up.

    Attributes:
        bundle: what bundle.json says.
        sha256: of the bundle.
        provenance: of the bundle.
        report: the evaluation of exactly this bundle.
        manifest: of the set that it was trained on.
        health: of that set.
        files: exported files by name, with their sha256.
    """

    bundle: BundleInfo
    sha256: str
    provenance: Provenance
    report: EvaluationReport | None = None
    manifest: SetManifest | None = None
    health: HealthReport | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def manifest_sha256(self) -> str:
        """Digest of the set, "" without one."""
        return self.manifest.sha256 if self.manifest else ""

    @property
    def teacher_sha256(self) -> str:
        """The teacher's bundle, "" where no file names it."""
        return self.provenance.inputs.get("teacher") or (self.report.teacher.sha256 if self.report else "")

    def check(self) -> None:
        """Refuse files that do not belong together.

        Raises:
            CheckpointMismatchError: an evaluation of another bundle, a set that this student was not trained on, or its teacher's not.
        """
        if self.report and self.report.student.sha256 != self.sha256:
            found = self.report.student.sha256[:12] or "a model without a bundle"
            raise CheckpointMismatchError(f"The report is of the student {found}, not of {self.sha256[:12]}: evaluate this one.")
        if self.report and self.report.teacher.sha256 != self.provenance.inputs.get("teacher", self.report.teacher.sha256):
            raise CheckpointMismatchError(
                f"The report compares with the teacher {self.report.teacher.sha256[:12]}, but the student was made from "
                f"{self.teacher_sha256[:12]}: evaluate it beside its own teacher."
            )
        # the set of an online run is published by the step that trains the student: no hash of it is in the student, but the same origin is
        if self.manifest and self.provenance.inputs.get("set") != self.manifest_sha256 and self.manifest.provenance != self.provenance:
            raise CheckpointMismatchError(
                f"The set {self.manifest_sha256[:12]} is not the one that the student {self.sha256[:12]} was trained on: give that one."
            )
        if self.health and (self.manifest is None or self.health.counts != self.manifest.counts):
            raise CheckpointMismatchError("The health report is not of the given set (other class counts): measure the health of this set.")


def open_sources(
    bundle: Path,
    report: Path | None = None,
    manifest: SetManifest | None = None,
    health: Path | None = None,
    files: Mapping[str, str] | None = None,
) -> CardSources:
    """Read what a card is made from, and check that it belongs together.

    Args:
        bundle: the student's folder.
        report: JSON of the evaluation, None without one.
        manifest: of the synthetic set, None without one.
        health: JSON of the set's health, None without one.
        files: exported files by name, with their sha256.

    Raises:
        MissingResourceError: one of them is not there.
        StoreError: one of them is damaged.
        CheckpointMismatchError: they do not belong together.
    """
    info, sha256 = read_bundle(bundle)
    sources = CardSources(
        bundle=info,
        sha256=sha256,
        provenance=read_origin(bundle),
        report=load_report(report) if report else None,
        manifest=manifest,
        health=load_health(health) if health else None,
        files=files or {},
    )
    sources.check()
    return sources


def model_card(sources: CardSources) -> str:
    """The card.

    Args:
        sources: belonging together, as `CardSources.check` sees to.

    Returns:
        Markdown that ends with a newline; equal sources give equal text.
    """
    info = sources.bundle
    parts = [
        f"# {_text(info.architecture.name)}, {info.num_classes} classes, {info.parameters:,} parameters",
        *_section("What it is", _what(sources)),
        *_section("How it was made", _made(sources)),
        *_section("Measured", _measured(sources.report)),
        *_section("Limits", [f"- {limit}" for limit in _limits(sources)]),
        *_section("What goes in, what comes out", _contract(info, sources.files)),
        *_section("How to load it", how_to_load(info, sources.files)),
        *_section("Where it comes from", _lineage(sources)),
    ]
    return "\n".join(parts) + "\n"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _text(value: object) -> str:
    """Text that Markdown shows as it is; class names and architectures are the user's."""
    return "".join(_ESCAPED.get(letter, letter) for letter in " ".join(str(value).split()))


def _code(value: object) -> str:
    """A value in a code span, where Markdown needs no escapes but those of tables."""
    return f"`{' '.join(str(value).split()).replace('`', ' ').replace('|', chr(92) + '|')}`"


def _classes(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED_CLASSES
    return ", ".join(map(_text, names[:_NAMED_CLASSES])) + (f" and {rest} more" if rest > 0 else "")


def _what(sources: CardSources) -> list[str]:
    info = sources.bundle
    arguments = ", ".join(f"{key} = {value}" for key, value in sorted(info.architecture.arguments.items()))
    rows = [
        ("architecture", _text(info.architecture.name + (f" ({arguments})" if arguments else ""))),
        ("parameters", f"{info.parameters:,}"),
        ("weights file", f"{info.weights_bytes:,} bytes"),
        ("classes", _classes(info.class_names)),
    ]
    if sources.teacher_sha256:
        name = f"{_text(sources.report.teacher.name)}, " if sources.report and sources.report.teacher.name else ""
        rows.append(("teacher", f"{name}bundle `{sources.teacher_sha256}`"))
    return _table(("", ""), rows)


def _made(sources: CardSources) -> list[str]:
    config, inputs = sources.provenance.config, sources.provenance.inputs
    if not config and "checkpoint" in inputs:
        return ["Imported from a checkpoint; the bundle does not say how that was trained."]
    rows = [("precision", _code(config["precision"]))] if config.get("precision") else []
    rows += [(f"seed of {_text(name)}", str(seed)) for name, seed in sorted(sources.provenance.seeds.items())]
    method = config.get("method") or (sources.manifest.provenance.config.get("method") if sources.manifest else "")
    if method in METHODS:
        rows.insert(0, ("method", f"{METHODS[method].title}, {METHODS[method].paper}"))
    lines = _table(("", ""), rows) if rows else []
    if inputs:
        lines += ["", f"The step that wrote the weights was given: {', '.join(sorted(map(_text, inputs)))}."]
    drawn = sources.manifest.provenance if sources.manifest else None
    if told := tell_real_images(find_real_images(sources.provenance, drawn)):
        lines += ["", " ".join(map(_text, told))]
    if sources.manifest:
        lines += ["", *_set_lines(sources.manifest)]
    if config:
        whole = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
        lines += ["", "<details><summary>Its resolved configuration</summary>", "", "```json", whole, "```", "", "</details>"]
    return lines


def _set_lines(manifest: SetManifest) -> list[str]:
    shape = " x ".join(map(str, manifest.shape))
    lines = [f"Its synthetic set holds {manifest.images:,} training images of {shape} and {manifest.holdout:,} withheld ones."]
    if manifest.counts:
        low, high = min(manifest.counts), max(manifest.counts)
        lines[0] += f" By the teacher's argmax each class has {f'{low:,}' if low == high else f'{low:,} to {high:,}'} training images."
    if asked := sum(manifest.asked):
        lines[0] += f" The teacher puts {manifest.agreed:,} of the {asked:,} that were asked for by class into that class."
    return lines


def _measured(report: EvaluationReport | None) -> list[str]:
    if report is None:
        return ["No evaluation report was given."]
    both = (report.teacher, report.student)
    rows: list[Sequence[str]] = []
    if report.labelled:
        rows.append(("top-1", *(_share(m.accuracy.correct, m.accuracy.total) for m in both)))
        if len(report.class_names) > 5:
            rows.append(("top-5", *(_share(m.accuracy.top5_correct, m.accuracy.total) for m in both)))
        rows.append(("expected calibration error", *(f"{m.calibration.ece:.4f}" * bool(m.accuracy.total) for m in both)))
    if report.compared:
        rows.append(("same class as the teacher", "", _share(report.agreement.agreed, report.agreement.total)))
        rows.append(("KL(teacher, student), nats", "", f"{report.agreement.kl:.4f}"))
    for best in report.best:
        right = f"; top-1 {_share(best.correct, best.total)}" if best.total else ""
        rows.append((_best_epoch(best), "", f"same class as the teacher {best.agreement:.2%}{right}"))
    rows += _cost_rows(both)
    head = f"On {counted(report.images, 'image')} ({report.source}); shares with their 95 % interval (Wilson)."
    return [head, "", *_table(("", f"teacher {_text(report.teacher.name)}".strip(), f"student {_text(report.student.name)}".strip()), rows)]


def _best_epoch(best: SnapshotScore) -> str:
    number = f" ({best.epoch:,})" if best.epoch else ""
    return f"its best epoch{number}, chosen on {f'{best.chosen_on:,} ' if best.chosen_on else ''}held-out images"


def _cost_rows(both: tuple[ModelReport, ModelReport]) -> Iterator[Sequence[str]]:
    yield "parameters", *(f"{m.cost.parameters:,}" for m in both)
    yield "MFLOPs an image", *(f"{m.cost.flops / 1e6:,.1f}" for m in both)
    yield "weights file", *(f"{m.cost.weights_bytes:,} bytes" for m in both)
    for first, second in zip(*(m.cost.latency for m in both), strict=False):
        label = f"CPU latency, batch {first.batch}, {counted(first.threads, 'thread')}"
        yield label, *(f"{one.milliseconds:,.2f} ms (median of {one.repeats})" for one in (first, second))


def _share(count: int, total: int) -> str:
    if not total:  # of a teacher of other classes
        return ""
    low, high = interval(count, total)
    return f"{count / total:.2%} ({count:,} of {total:,}; {low:.1%} to {high:.1%})"


def _limits(sources: CardSources) -> Iterator[str]:
    if report := sources.report:
        what = "Accuracy, calibration and agreement are" if report.labelled else "Agreement is"
        if not report.compared:
            what = "Accuracy and calibration are"
            yield "Its classes are others than its teacher's, so nothing compares the answers of the two."
        yield f"{what} from these {report.images:,} images ({report.source}); the report measured no others."
        if report.labelled:
            yield from _class_limits(report)
        else:
            yield "There were no labels: the accuracy of the student, and of its teacher, is not known from this report."
        if report.source in ("training synthetic", "training images"):
            yield "The student was trained on the very images that it was measured on."
        if report.student.cost.latency:
            yield "The latencies are those of the machine that ran the evaluation, which the report does not name."
    else:
        yield "Nothing is known here about accuracy or agreement with the teacher."
    yield from _set_limits(sources)


def _class_limits(report: EvaluationReport) -> Iterator[str]:
    gap = report.teacher.accuracy.correct - report.student.accuracy.correct
    if gap and report.compared:
        yield f"The student names {abs(gap):,} {'fewer' if gap > 0 else 'more'} of these images right than its teacher."
    seen = [one for one in report.student.accuracy.per_class if one.total]
    best = max((one.rate for one in seen), default=0.0)
    weakest = sorted((one for one in seen if one.rate < best), key=lambda one: one.rate)[:_WEAKEST]
    if weakest:
        yield f"Its weakest classes: {', '.join(f'{_text(one.name)} {one.rate:.1%} ({one.correct} of {one.total})' for one in weakest)}."
    unseen = [one.name for one in report.student.accuracy.per_class if not one.total]
    if unseen:
        yield f"No image of these classes was among them: {_classes(unseen)}."


def _set_limits(sources: CardSources) -> Iterator[str]:
    manifest = sources.manifest
    if manifest is None and "noise" in sources.provenance.inputs:
        yield "The student was trained on noise, drawn from a seed, and not on a synthetic set."
        return
    if manifest is None and {"data", "images"} & set(sources.provenance.inputs):
        yield "The student was trained on images that were given, not on a synthetic set; they are named by hash and not kept with it."
        return
    if manifest is None:
        yield "No synthetic set was given, so nothing is said about what the student was trained on."
        return
    names = sources.bundle.class_names
    missing = [name for name, count in zip(names, manifest.counts, strict=True) if not count]
    if missing:
        yield f"The set has no training image that the teacher puts into: {_classes(missing)}."
    if short := sum(manifest.shortfall):
        yield f"The set is short of {counted(short, 'image')} that its quotas asked for."
    if sources.health is None:
        yield "The health of the set was not given."
    elif sources.health.findings:
        yield from (_text(finding) for finding in sources.health.findings)
    else:
        yield f"The checks of the set's health found nothing, on {sources.health.sampled:,} of its images."


def _contract(info: BundleInfo, files: Mapping[str, str]) -> list[str]:
    spec = info.spec
    bytes_too = "; files named uint8 take uint8 pixels in 0 to 255" if any("uint8" in name for name in files) else ""
    rows = [
        ("in", f"`images`, (N, {spec.channels}, {spec.height}, {spec.width}), float32 pixels in [0, 1]{bytes_too}"),
        ("normalisation", f"inside: mean {list(spec.mean)}, std {list(spec.std)}; do not normalise before"),
        ("out", f"`logits`, (N, {info.num_classes}) float32, in the order of the classes; softmax gives probabilities"),
    ]
    return _table(("", ""), rows)


def _lineage(sources: CardSources) -> list[str]:
    rows: list[Sequence[str]] = [("student bundle", f"`{sources.sha256}`"), ("weights", f"`{sources.bundle.weights_sha256}`")]
    inputs: dict[str, Any] = dict(sources.provenance.inputs)
    if sources.manifest:
        inputs["set"] = sources.manifest_sha256
        drawn = sources.manifest.synthesizers
        inputs |= {"synthesizer of the set" + f" {number}" * (len(drawn) > 1): sha256 for number, sha256 in enumerate(drawn, start=1)}
    if sources.teacher_sha256:
        inputs["teacher"] = sources.teacher_sha256
    rows += [(_text(name), f"`{digest}`") for name, digest in sorted(inputs.items()) if digest]
    rows += [(_text(name), f"`{digest}`") for name, digest in sources.files.items()]
    return _table(("", "sha256"), [*rows, ("code that wrote the weights", f"`{sources.provenance.code_version}`")])
