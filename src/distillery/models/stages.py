"""Where the stages of a network end: the layers that objectives on features compare where a recipe names none."""

from distillery.types import Classifier


def stage_outputs(classifier: Classifier) -> tuple[str, ...]:
    """Paths of the modules that end the stem (where there is one) and each stage, from the images on.

    Args:
        classifier: whose network lists them as `stage_outputs`, by its own paths; those of our table do, and any other may.

    Returns:
        Paths as the classifier's `named_modules` has them; none where the network names none.
    """
    listed = getattr(classifier.network, "stage_outputs", ())
    named = listed if isinstance(listed, tuple | list) else ()
    return tuple(f"network.{path}" for path in named if isinstance(path, str))
