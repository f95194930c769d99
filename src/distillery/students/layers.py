"""What objectives on features share: the layers that they compare where nobody names any, and refusals of what they cannot compare."""

from distillery.errors import ConfigError
from distillery.grammar import counted, with_article
from distillery.models.stages import stage_outputs
from distillery.students.objective import Seen, Tap
from distillery.types import Classifier


def ends_of(classifier: Classifier, who: str, setting: str) -> tuple[Tap, ...]:
    """Where the stages of a network end.

    Args:
        classifier: the teacher or the student.
        who: which of them.
        setting: what names layers instead.

    Raises:
        ConfigError: it has no stages that can be found.
    """
    if not (found := stage_outputs(classifier)):
        raise ConfigError(
            f"The {who}, {with_article(type(classifier.network).__name__)}, has no stages that could be found: name layers by {setting}."
        )
    return tuple(map(Tap.parse, found))


def matched_ends(teacher: Classifier, student: Classifier, setting: str) -> tuple[tuple[Tap, ...], tuple[Tap, ...]]:
    """The ends of both networks' stages, as many in one as in the other.

    Raises:
        ConfigError: unequal numbers of stages; names them.
    """
    theirs, ours = ends_of(teacher, "teacher", setting), ends_of(student, "student", setting)
    if len(theirs) != len(ours):
        raise ConfigError(
            f"The teacher's maps have {counted(len(theirs), 'stage')} ({_list(theirs)}) and the student's {len(ours)} ({_list(ours)}), "
            f"which do not pair up: take a student of as many stages, or name layers by {setting}."
        )
    return theirs, ours


def check_task(name: str, *networks: Classifier) -> None:
    """Refuse segmenters.

    Args:
        name: of the objective.
        networks: teacher and student.

    Raises:
        ConfigError: one of them is a segmenter.
    """
    if any(network.task == "segmentation" for network in networks):
        raise ConfigError(f"{name} compares features of classifiers, but these are segmenters, which answer pixel by pixel: take kd.")


def check_maps(name: str, seen: Seen) -> None:
    """Refuse features that are no maps (N, C, H, W).

    Args:
        name: of the objective.
        seen: what two images show.

    Raises:
        ConfigError: names the layer and its shape.
    """
    for who, features in (("teacher", seen.teacher), ("student", seen.student)):
        for tap, tensor in features.items():
            if tensor.dim() != 4:
                shape = ", ".join(map(str, ("N", *tensor.shape[1:])))
                raise ConfigError(f"{name} compares maps (N, C, H, W), but {tap} of the {who} gives ({shape}): name another layer.")


def size_words(features_shape: tuple[int, ...]) -> str:
    """Height and width of maps, as `8x8`."""
    return "x".join(map(str, features_shape[-2:]))


def _list(taps: tuple[Tap, ...]) -> str:
    return ", ".join(map(str, taps))
