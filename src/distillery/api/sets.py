"""More images from a trained synthesizer, as a set of their own."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.api.arguments import Place, as_mapping, located, new_folder
from distillery.api.process import surroundings, visiting
from distillery.api.progress import silent
from distillery.api.running import run_step
from distillery.api.teachers import bundle_at
from distillery.config import Config
from distillery.data.reference import open_reference, read_reference
from distillery.data.store import SyntheticSet
from distillery.engine.materialize import SetConfig
from distillery.errors import CheckpointMismatchError, MissingResourceError
from distillery.evaluation.health import HealthConfig
from distillery.host import Watcher
from distillery.models.bundle import read_bundle
from distillery.provenance import sha256_file
from distillery.recipes.sections import MaterializeSection, StatisticsSection, common_fields
from distillery.runtime import Precision
from distillery.synthesis.bundle import describe_synthesizer, list_synthesizers, read_synthesizer
from distillery.workbench.assembly import PlannedMethod
from distillery.workbench.planning import open_ood_of_trained


@dataclass(frozen=True)
class MaterializedSet:
    """A published synthetic set.

    Attributes:
        folder: holds the reference to it; `distillery inspect`, `verify` and `export` take it.
        uri: where the set lies.
        sha256: of its manifest, which names every shard by hash.
        metrics: `images`, `holdout`, `drawn`, `shortfall`, where classes were asked for `asked_agreement` and `set_agreement`, and
            `health/` numbers.
        seconds: what drawing it took; next to nothing where it was done before.
    """

    folder: Path
    uri: str
    sha256: str
    metrics: Mapping[str, float]
    seconds: float

    def open(self) -> SyntheticSet:
        """The set: `open().load("train")` has images (N, C, H, W) uint8, the labels asked for and the teacher's logits, verified."""
        return open_reference(self.folder)


class MaterializeOptions(Config):
    """What else can be said of a set.

    Attributes:
        set: as in a recipe; `size` is an argument of its own.
        health: when a set counts as collapsed.
        precision: of the teacher and the synthesizer.
    """

    set: SetConfig = SetConfig()
    health: HealthConfig = HealthConfig()
    precision: Precision = "auto"


def materialize(
    teacher: Place,
    synthesizer: Place,
    out: Place,
    size: int,
    *,
    ood: Place = "",
    statistics: Place = "",
    options: Mapping[str, Any] | MaterializeOptions | None = None,
    seed: int = 0,
    store: Place = "",
    device: str = "",
    threads: int = 0,
    progress: Watcher = silent,
) -> MaterializedSet:
    """Draw images from a trained synthesizer until every class, as the teacher sees them, has its quota, and publish them as a set.

    Args:
        teacher: the bundle that it was trained against: a folder, a URI, or what `import_teacher` returned.
        synthesizer: folder of the synthesizer, or one with every shard of an ensemble in it, such as `Distilled.synthesizer`.
        out: folder for the reference to the set.
        size: images, held-out ones included.
        ood: the images of another domain from which the synthesizer's method learned, if it is one of those; "" for none.
        statistics: the file of moments that it was trained on, such as `Distilled.statistics`, which one of each class cannot do without;
            "" reads the teacher's own buffers.
        options: of the set, as `{"set": {"holdout": 0, "strict": True}}`.
        seed: of every random stream; another one draws other images.
        store: folder or s3:// URI for the set and the checkpoints; "" is a folder in `out`.
        device: auto, cpu, cuda or cuda:N; "" leaves it to `DISTILLERY_DEVICE`, else auto.
        threads: CPU threads; 0 leaves them to `DISTILLERY_THREADS`, else torch's choice.
        progress: told how far the work is, such as `TextProgress()`.

    Raises:
        DistilleryError: a synthesizer of another teacher, other moments than it was trained on, an option that is not allowed, a set that
            comes out short under `strict`.
    """
    folder, origin = new_folder(out), located(teacher, "teacher")
    uri = located(store, "store") or str(folder / "store")
    parsed = options if isinstance(options, MaterializeOptions) else MaterializeOptions.parse(as_mapping(options, "options"), "options")
    chosen = SetConfig.parse({**parsed.set.to_json(), "size": size}, "options.set")
    began = time.monotonic()
    with visiting(progress, surroundings(uri, folder / "work", device, threads)):
        with bundle_at(origin, what="teacher") as bundle:
            info, sha256 = read_bundle(bundle)
        others = located(ood, "ood")
        places = {"statistics": folder / "statistics.safetensors", "set": folder / "set"}
        places["synthesizer"] = Path(located(synthesizer, "synthesizer"))
        made = describe_synthesizer(list_synthesizers(places["synthesizer"])[0], sha256)
        common = common_fields(seed, sha256, parsed.precision, info.architecture)
        if statistics:
            places["statistics"] = _trained_on(Path(located(statistics, "statistics")), list_synthesizers(places["synthesizer"])[0])
        elif PlannedMethod.parse(made.method, made.method_config, places["statistics"]).statistics_path:
            run_step("extract_statistics", StatisticsSection.parse(common, "statistics").to_json(), places, {"teacher_uri": origin})
        learned = open_ood_of_trained(others, (), made, info.spec)
        common["ood_sha256"] = learned.digest if learned else ""
        method = {"method": made.method, "method_config": made.method_config, "generators": made.share.total}
        own = {**method, "set": chosen.to_json(), "health": parsed.health.to_json()}
        section = MaterializeSection.parse({**common, **own}, "materialize").to_json()
        metrics = run_step("materialize", section, places, {"teacher_uri": origin, "synth_ood_uri": others})
    reference = read_reference(folder / "set")
    return MaterializedSet(folder / "set", reference.uri, reference.sha256, metrics, time.monotonic() - began)


def _trained_on(file: Path, synthesizer: Path) -> Path:
    """A file of moments, once it is known to be the one that a synthesizer names."""
    if not file.is_file():
        raise MissingResourceError(f"There are no moments at {str(file)!r}: give the file that the run left, statistics.safetensors.")
    named, found = read_synthesizer(synthesizer)[0].provenance.inputs.get("statistics", ""), sha256_file(file)
    if found != named:
        wanted = f"was trained on those with sha256 {named[:12]}" if named else "was trained without any"
        raise CheckpointMismatchError(
            f"The moments at {str(file)!r} have sha256 {found[:12]}, but the synthesizer {wanted}: give the file that its run left."
        )
    return file
