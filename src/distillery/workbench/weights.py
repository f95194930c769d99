"""The weights that a student begins with, where it is given some: a student's from before, or a teacher's; the plan pins them."""

from distillery.errors import CheckpointMismatchError, ConfigError
from distillery.host import spoken
from distillery.models.bundle import BundleInfo, VerifiedBundle, fetch_bundle
from distillery.models.catalog import is_same
from distillery.recipes.sections import LearnerSection
from distillery.storage.workspace import workspace
from distillery.students.plan import StudentConfig
from distillery.types import Classifier

FIELD = "student_start_uri"


def open_weights(uri: str, student: StudentConfig, teacher: BundleInfo | Classifier) -> VerifiedBundle | None:
    """The bundle whose weights a student begins with, its bytes verified; None where no URI is given.

    Args:
        uri: of a student's or a teacher's bundle; "" for none.
        student: that begins with them.
        teacher: in use, whose images, task and, where it names no others, classes are the student's.

    Raises:
        ConfigError: a bundle of another network, other images, other classes or another task.
        MissingResourceError: there is no bundle.
        StoreError: damaged bytes.
    """
    if not uri:
        return None
    bundle = VerifiedBundle(fetch_bundle(uri, workspace() / "bundles"))
    if said := _difference(bundle.info, student, teacher):
        raise ConfigError(f"The student cannot begin with the weights of {uri!r}: {said}; give those of such a student, or leave them out.")
    bundle.verify()
    return bundle


def open_planned_weights(section: LearnerSection, uri: str, teacher: Classifier) -> VerifiedBundle | None:
    """As `open_weights`, and exactly those that the plan saw.

    Args:
        section: of the step.
        uri: where the run has them.
        teacher: in use.

    Raises:
        ConfigError: none where the run was planned with some, or some where it was planned without.
        CheckpointMismatchError: others than the plan saw.
    """
    if bool(uri) != bool(section.student_start_sha256):
        planned = "with" if section.student_start_sha256 else "without"
        raise ConfigError(
            f"{spoken(FIELD)} = {uri!r}, but the run was planned {planned} weights for the student to begin with: give the step what the "
            "plan was given."
        )
    found = open_weights(uri, section.student, teacher)
    if found and found.sha256 != section.student_start_sha256:
        raise CheckpointMismatchError(
            f"The bundle {uri!r} has sha256 {found.sha256[:12]} and had {section.student_start_sha256[:12]} when the run was planned: plan "
            "it again."
        )
    return found


def weights_inputs(start: VerifiedBundle | None) -> dict[str, str]:
    """The bundle's hash, as an input of a step whose student begins with its weights."""
    return {"student_start": start.sha256} if start else {}


def _difference(found: BundleInfo, student: StudentConfig, teacher: BundleInfo | Classifier) -> str:
    """In what a bundle is not such a student, in words; "" where it is one."""
    if not is_same(found.architecture, student.architecture):
        return f"they are of {found.architecture}, and the student is {student.architecture}"
    for name in ("channels", "height", "width", "mean", "std"):
        theirs, ours = getattr(found.spec, name), getattr(teacher.spec, name)
        if theirs != ours:
            return f"they were trained on images with {name} = {theirs}, and the teacher's have {name} = {ours}"
    classes = student.class_names(teacher.class_names)
    if len(found.class_names) != len(classes):
        return f"they tell {len(found.class_names)} classes apart, and the student {len(classes)}"
    for theirs, ours in zip(found.class_names, classes, strict=True):
        if theirs != ours:
            return f"they call a class {theirs!r} which the student calls {ours!r}"
    return "" if found.task == teacher.task else f"they are for {found.task}, and the teacher for {teacher.task}"
