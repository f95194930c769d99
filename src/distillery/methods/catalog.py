"""The table of data-free methods: plain data, so that listing them, `--help` and compiling a pipeline import no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from distillery.catalog import CatalogRow
from distillery.config import Config, nearest
from distillery.errors import ConfigError
from distillery.host import spoken
from distillery.step_table import DEFAULT_KIND, STATISTICS_KIND, find_pipeline
from distillery.synthesis.config import MethodConfig

Need = Literal["moments", "class_moments", "batchnorm", "ood"]
"""Moments of the teacher's BatchNorm2d layers over all classes or of each class, such layers themselves, images of another domain."""

NEEDS: dict[Need, str] = {
    "moments": "BatchNorm2d",
    "class_moments": "statistics of each class",
    "batchnorm": "BatchNorm2d",
    "ood": "images of another domain",
}
"""What each need asks for, in words."""

_REFUSALS: dict[Need, tuple[str, str]] = {  # what the method does, and what to give instead
    "moments": ("matches BatchNorm statistics", "a teacher with BatchNorm2d"),
    "class_moments": (
        "matches BatchNorm statistics of each class",
        "statistics measured class by class (`distillery extract-statistics --data` on labelled images, `distillery invert` without any), "
        "as {statistics}",
    ),
    "batchnorm": ("looks into the teacher's BatchNorm2d layers", "a teacher with BatchNorm2d"),
    "ood": ("learns from images of another domain", "such images as {ood}"),
}


@dataclass(frozen=True)
class Supply:
    """What a run has to build a method from, besides the teacher's answers.

    Attributes:
        batchnorm: the teacher has BatchNorm2d layers whose moments can be matched.
        by_class: its moments were measured class by class.
        ood: there are images of another domain.
        teacher: its name in messages, with a space before it, or "".
        left_out: which layers do not count and why, as `Layers.exceptions` says it.
    """

    batchnorm: bool
    by_class: bool = False
    ood: bool = False
    teacher: str = ""
    left_out: str = ""

    def meets(self, need: Need) -> bool:
        """Whether the run has what the need asks for."""
        if need == "ood":
            return self.ood
        return self.batchnorm and (self.by_class or need != "class_moments")

    def lacking(self, need: Need) -> str:
        """What is not there, as the middle of a sentence."""
        if need == "ood":
            return "there are none"
        if self.batchnorm:
            return "its moments are those of all classes together"
        return f"the teacher{self.teacher} has no BatchNorm2d layer with running statistics that a forward pass visits{self.left_out}"


@dataclass(frozen=True, kw_only=True)
class Method(CatalogRow[Need]):
    """One row; its name is also that of its folder of recipes, its page and its equivalence test, and its class is a synthesizer.

    Attributes:
        target: what the method optimises: a generator's weights or the images themselves.
        coupling: offline methods never look at the student; online ones play against it.
        feed: what the student sees by default: the pool of all images so far, this round's images, or fresh ones each step.
        classes: whether its images are asked for by class; a method without takes no labels and gives none.
        takes: what it does without unless it is asked, each with the setting that asks, as an assignment of its config.
        ensembles: whether many generators, each of its slice of the classes, can stand where one stands; such a method reads
            `Ingredients.share`, and the numbers of its settings (`images_per_turn`, `cut`) are of ONE generator.
    """

    target: Literal["generator", "images"]
    coupling: Literal["offline", "online"]
    feed: Literal["pool", "round", "fresh"]
    ensembles: bool = False
    classes: bool = True
    takes: Mapping[Need, str] = field(default_factory=dict)

    @property
    def inverts(self) -> bool:
        """Whether a set is drawn from its turns, each a batch made from nothing: no generator is trained, and no student is played."""
        return self.target == "images" and self.coupling == "offline"

    @property
    def pipeline(self) -> str:
        """The pipeline that runs the method, with one generator where it trains any."""
        return self.pipeline_for(1)

    def pipeline_for(self, generators: object, kind: str = DEFAULT_KIND) -> str:
        """The pipeline that runs the method.

        Args:
            generators: as many as a recipe asks for: 1, or whatever else it says.
            kind: of the recipe.

        Raises:
            ConfigError: statistics of each class by a method that inverts no images.
        """
        if kind == STATISTICS_KIND and not self.inverts:
            ways = ", ".join(name for name, other in METHODS.items() if other.inverts)
            how = "needs a student to play against" if self.target == "images" else "trains a generator"
            raise ConfigError(f"{self.name} {how} and inverts no images: give a recipe of one of {ways or 'none here'}.")
        return find_pipeline(kind, self.coupling, self.target, 2 if self.ensembles and generators != 1 else 1)

    def parse(self, config: Mapping[str, Any], where: str = "") -> MethodConfig:
        """Settings of the method, by the config class of its row (imports torch).

        Raises:
            ConfigError: settings that it does not have or take, said to stand at `where`.
        """
        parsed: MethodConfig = self.load()[1].parse(config, where)
        return parsed

    def required(self, config: Config) -> tuple[Need, ...]:
        """What is needed under these settings: a term of weight 0 needs nothing, and another setting may need something of its own."""
        further = config.further_needs if isinstance(config, MethodConfig) else ()
        return (*super().required(config), *(need for need in NEEDS if need in further))

    def way_to(self, need: Need) -> str:
        """What makes a run use what it has but does not need, as the end of a sentence: a setting, else other methods."""
        if need in self.takes:
            return f"add {spoken('run_overrides')} synthesis.config.{self.takes[need]}"
        others = ", ".join(row.name for row in METHODS.values() if need in row.needs or need in row.takes)
        return f"choose a recipe of a method that does ({others or 'none here'})"

    def check(self, config: MethodConfig, supply: Supply) -> None:
        """Refuse settings under which the method needs what the run does not have.

        Raises:
            ConfigError: one sentence about the first such need, with what works without.
        """
        for need in self.required(config):
            if not supply.meets(need):
                does, give = _REFUSALS[need]
                raise ConfigError(
                    f"{self.name} {does}, but {supply.lacking(need)}; what works without: {methods_fitting(supply)}; "
                    f"choose one of them or {give.format(ood=spoken('synth_ood_uri'), statistics=spoken('synth_statistics_uri'))}."
                )


METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            name="adaptive_deep_inversion",
            title="Adaptive DeepInversion",
            paper="arXiv:1912.08795 (CVPR 2020)",
            target="images",
            coupling="online",
            feed="pool",
            needs={"moments": "moments_weight"},
            summary="Images made from noise batch by batch, each against the student as it then is.",
            implementation="distillery.methods.deep_inversion:AdaptiveDeepInversion",
        ),
        Method(
            name="deep_inversion",
            title="DeepInversion",
            paper="arXiv:1912.08795 (CVPR 2020)",
            target="images",
            coupling="offline",
            feed="pool",
            needs={"moments": "moments_weight"},
            summary="Images made from noise by gradients on their pixels, without a generator and before any student exists.",
            implementation="distillery.methods.deep_inversion:DeepInversion",
        ),
        Method(
            name="fast_dfkd",
            title="FastDFKD",
            paper="arXiv:2112.07327 (AAAI 2022)",
            target="generator",
            coupling="online",
            feed="pool",
            needs={"moments": "moments_weight"},
            summary="A meta-generator that reaches new images in k steps, played against the student.",
            implementation="distillery.methods.fast_dfkd:FastDFKD",
        ),
        Method(
            name="ls_gdfd",
            title="LS-GDFD",
            paper="arXiv:2012.05578 (2020)",
            target="generator",
            coupling="offline",
            feed="pool",
            needs={"moments": "moments_weight"},
            takes={"class_moments": "targets=class"},
            summary="A label-conditional generator, or an ensemble of them, trained on inceptionism and moment matching before any student "
            "exists.",
            implementation="distillery.methods.ls_gdfd:LSGDFD",
            ensembles=True,
        ),
    )
}


def methods_fitting(supply: Supply) -> str:
    """Which methods a run can be made with, and with which weights at 0, as the end of a sentence."""
    ways = []
    for row in METHODS.values():
        lifted = [weight for need, weight in row.needs.items() if not supply.meets(need)]
        if all(lifted):
            zeros = " and ".join(f"{weight} = 0" for weight in dict.fromkeys(lifted))
            ways.append(f"{row.name} with {zeros}" if zeros else row.name)
    return ", ".join(ways) or "no method here"


def find_method(name: str) -> Method:
    """The row called `name`.

    Raises:
        ConfigError: no such method; names the nearest one.
    """
    if not name:
        raise ConfigError(f"synthesis.method is missing: name one of {', '.join(METHODS)}.")
    if name not in METHODS:
        raise ConfigError(f"There is no method {name!r}; known: {', '.join(METHODS)}{nearest(name, list(METHODS)) or '.'}")
    return METHODS[name]
