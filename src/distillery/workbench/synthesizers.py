"""The trained synthesizers that a step draws from: one, or the shares of an ensemble, which must be whole and of one plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.data.manifest import SYNTHESIZER
from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.synthesis.bundle import SynthesizerState, load_synthesizer, read_synthesizer
from distillery.workbench.assembly import PlannedMethod, Teacher


@dataclass(frozen=True)
class Synthesizers:
    """Verified bundles.

    Attributes:
        states: what they hold, in the order of their generators.
        inputs: their sha256, as inputs of a step.
    """

    states: tuple[SynthesizerState, ...]
    inputs: dict[str, str]


def open_synthesizers(folders: Sequence[Path], plan: PlannedMethod, teacher: Teacher, generators: int) -> Synthesizers:
    """Bundles that were trained with a plan.

    Args:
        folders: of the bundles; of an ensemble one a share, in any order.
        plan: the method.
        teacher: in use.
        generators: that they hold together.

    Raises:
        ConfigError: none for a method that draws from one, or one for a method that does not.
        CheckpointMismatchError: of another teacher, another method or other settings, or shares that are not one whole ensemble.
        MissingResourceError: no bundle there.
        StoreError: damaged bytes.
    """
    if not folders:
        raise ConfigError(f"The method {plan.name} draws from a trained generator, and none is given: train one first.")
    _check_draws(plan, folders[0])
    return check_planned([(folder, load_synthesizer(folder, teacher.sha256)) for folder in folders], plan, generators)


def check_planned(states: Sequence[tuple[Path, SynthesizerState]], plan: PlannedMethod, generators: int) -> Synthesizers:
    """Bundles that were loaded, once they are known to be of a plan and whole.

    Args:
        states: folders, and what the bundle in each holds; in any order, at least one.
        plan: the method.
        generators: that they hold together.

    Raises:
        ConfigError: a method that draws from none.
        CheckpointMismatchError: another method or other settings, or shares that are not one whole ensemble.
    """
    _check_draws(plan, states[0][0])
    found = []
    for folder, made in states:
        if (made.method, made.config) != (plan.name, plan.config.to_json()):
            raise CheckpointMismatchError(
                f"The synthesizer at {str(folder)!r} was trained by {made.method} with other settings than this plan's {plan.name}: "
                "train a generator with this recipe."
            )
        found.append((made, read_synthesizer(folder)[1]))
    found.sort(key=lambda pair: pair[0].share.first)
    check_whole([made for made, _ in found], generators)
    width = len(str(len(found)))
    names = [SYNTHESIZER] if len(found) == 1 else [f"{SYNTHESIZER}_{number:0{width}d}" for number in range(1, len(found) + 1)]
    return Synthesizers(tuple(made for made, _ in found), {name: sha256 for name, (_, sha256) in zip(names, found, strict=True)})


def check_whole(made: Sequence[SynthesizerState], generators: int) -> None:
    """Refuse shares that do not hold every generator of an ensemble once.

    Args:
        made: in the order of their generators.
        generators: that there are to be.

    Raises:
        CheckpointMismatchError: names what is held.
    """
    upto = 0
    for state in made:
        if (state.share.first, state.share.total) != (upto, generators):
            break
        upto = state.share.last
    else:
        if upto == generators:
            return
    held = ", ".join(f"{state.share.first + 1} to {state.share.last} of {state.share.total}" for state in made)
    raise CheckpointMismatchError(
        f"The synthesizers hold generators {held}, but the set is drawn from all {generators} of one ensemble: give every share, each once."
    )


def _check_draws(plan: PlannedMethod, folder: Path) -> None:
    if plan.row.inverts:
        raise ConfigError(f"The method {plan.name} makes its images from nothing: leave the synthesizer {str(folder)!r} out.")
