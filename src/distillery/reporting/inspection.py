"""What a published set holds, as numbers and as tables for the terminal."""

from typing import Self

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from distillery.config import Config
from distillery.data.shards import add_up
from distillery.data.store import SyntheticSet
from distillery.evaluation.health import HealthReport
from distillery.grammar import counted
from distillery.reporting.words import size

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BAR = 30
_ROWS = 40
"""Classes of which the terminal shows a row; of more, the rarest ones are shown, since these tell whether classes are missing."""


class SetSummary(Config):
    """A set at a glance.

    Attributes:
        uri: where it is.
        sha256: of its manifest, which names every byte.
        shape: (C, H, W).
        class_names: the teacher's, or the numbers of the classes.
        teacher_sha256: the teacher that labelled it.
        synthesizers: what it was drawn from: one, or each share of an ensemble; empty for the pool of an online run and for images made
            from nothing.
        images: to train on.
        holdout: withheld.
        shards: files.
        bytes: of all shards.
        asked: training images by the class they were asked for.
        counts: training images by the teacher's argmax.
        holdout_counts: withheld images by the teacher's argmax.
        shortfall: images that the quotas wanted and did not get, by class.
        agreed: training images in the class they were asked for.
        confidence: quantiles of the teacher's highest probability over the sampled images, by name from `p0` to `p100`.
        health: of the training images.
    """

    uri: str
    sha256: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    teacher_sha256: str
    synthesizers: tuple[str, ...]
    images: int
    holdout: int
    shards: int
    bytes: int
    asked: tuple[int, ...]
    counts: tuple[int, ...]
    holdout_counts: tuple[int, ...]
    shortfall: tuple[int, ...]
    agreed: int
    confidence: dict[str, float]
    health: HealthReport

    @classmethod
    def of(cls, found: SyntheticSet, logits: Tensor, health: HealthReport, class_names: tuple[str, ...] = ()) -> Self:
        """Summarize a set.

        Args:
            found: the set.
            logits: the teacher's, (N, K), of sampled training images.
            health: of the same images.
            class_names: the teacher's; without them the classes are numbered.
        """
        manifest = found.manifest
        levels = logits.double().softmax(1).amax(1).quantile(torch.tensor(_QUANTILES, dtype=torch.float64)).tolist()
        return cls(
            uri=found.store.uri,
            sha256=found.digest,
            shape=manifest.shape,
            class_names=class_names or tuple(str(index) for index in range(manifest.num_classes)),
            teacher_sha256=manifest.teacher_sha256,
            synthesizers=manifest.synthesizers,
            images=manifest.images,
            holdout=manifest.holdout,
            shards=len(manifest.shards),
            bytes=sum(entry.bytes for entry in manifest.shards),
            asked=manifest.asked,
            counts=manifest.counts,
            holdout_counts=add_up((entry.counts for entry in found.entries("holdout")), manifest.num_classes),
            shortfall=manifest.shortfall,
            agreed=manifest.agreed,
            confidence={f"p{quantile * 100:g}": level for quantile, level in zip(_QUANTILES, levels, strict=True)},
            health=health,
        )


def facts_table(summary: SetSummary) -> Table:
    """Everything that is not by class, a row each."""
    shown = Table(title=f"Synthetic set {summary.sha256[:12]}", show_header=False)
    asked = sum(summary.asked)
    diversity, health = summary.health.diversity, summary.health
    rows = {
        "where": summary.uri,
        "images": f"{summary.images:,} to train on, {summary.holdout:,} held out, {' x '.join(map(str, summary.shape))}",
        "size on disk": f"{size(summary.bytes)} in {counted(summary.shards, 'shard')}",
        "teacher": summary.teacher_sha256[:12],
        "synthesizer": ", ".join(sha256[:12] for sha256 in summary.synthesizers) or "none: made in an online run's turns, or from nothing",
        "asked and obtained": f"{summary.agreed:,} of {asked:,} agree ({summary.agreed / asked:.1%})" if asked else "asked for no class",
        "short of the quotas": f"{counted(sum(summary.shortfall), 'image')}",
        "teacher's confidence": f"mean {health.confidence:.3f};  "
        + "  ".join(f"{name} {level:.3f}" for name, level in summary.confidence.items()),
        "class entropy": f"{health.entropy:.3f} of a uniform histogram's; the rarest class has {health.class_share:.0%} of its even part",
        "compared by": f"{_feature_name(health)}, {counted(health.sampled, 'image')}",
        "distance of two images": f"{diversity.distance:.3f} (cosine), {diversity.class_distance:.3f} within a class",
        "directions": f"{diversity.directions:.1f} (participation ratio)",
        "near-duplicates": f"{diversity.duplicates:.2%} above a cosine of {health.config.duplicate_similarity:g}",
    }
    for name, text in rows.items():
        shown.add_row(name, escape(text))
    for finding in health.findings:
        shown.add_row("[bold red]finding[/]", escape(finding))
    return shown


def class_table(summary: SetSummary) -> Table:
    """A row a class: asked, obtained, held out, and a bar as long as the class is large; of many classes the rarest."""
    title, names = "Training images by class (obtained: the teacher's argmax)", summary.class_names
    if len(names) > _ROWS:
        title += f", the {_ROWS} rarest of {len(names):,}; --json has all"
    shown = Table(title=title)
    for heading in ("class", "asked", "obtained", "held out", "short"):
        shown.add_column(heading, justify="left" if heading == "class" else "right")
    shown.add_column("")
    largest = max(summary.counts)
    rarest = sorted(range(len(names)), key=summary.counts.__getitem__)[:_ROWS]
    columns = (summary.class_names, summary.asked, summary.counts, summary.holdout_counts, summary.shortfall)
    rows = list(zip(*columns, strict=True))
    for name, asked, count, withheld, short in rows if len(names) <= _ROWS else [rows[index] for index in rarest]:
        bar = "█" * round(_BAR * count / max(largest, 1))
        shown.add_row(escape(name), f"{asked:,}", f"{count:,}", f"{withheld:,}", f"{short:,}" if short else "", bar)
    return shown


def _feature_name(health: HealthReport) -> str:
    if health.features == "logits":
        return "the teacher's logits, stored in the set (penultimate features need --teacher, and its last linear layer)"
    return f"penultimate features (input of {health.features})"
