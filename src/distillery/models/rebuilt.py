"""Whether a network is what its state dict says: a bundle holds nothing else of it."""

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.foreign_code import guarded
from distillery.models.allowance import is_foreign
from distillery.models.catalog import Architecture, build_network
from distillery.models.neighbours import is_close
from distillery.models.versions import Weights
from distillery.seeding import seeded
from distillery.types import Classifier

_CLOSE = 1e-3  # of the largest logit


def check_rebuilt(classifier: Classifier, architecture: Architecture, images: Tensor) -> None:
    """Build a network of the user's own once more, load the same weights, and expect the same logits.

    Args:
        classifier: as the checkpoint or its initialisation left it, in eval mode; one of our table, torchvision's or timm's passes unseen.
        architecture: what it was built from.
        images: (N, C, H, W) in [0, 1], on the classifier's device.

    Raises:
        ConfigError: it keeps something that enters its answers outside its state dict.
    """
    if not is_foreign(architecture.name):
        return
    with seeded(1, "rebuilt"):
        network = build_network(architecture, classifier.spec, classifier.num_classes)
    with guarded(f"{architecture.name} does not take its own weights when it is built again", "let its arguments alone decide its parts"):
        network.load_state_dict(Weights.written_by(network, classifier.network.state_dict()))
    other = Classifier(network, classifier.spec, classifier.class_names, classifier.memory_format, classifier.task).to(images.device).eval()
    with torch.no_grad():
        first, second = (each(each.arrange(images)) for each in (classifier, other))
    if not is_close(first, second, _CLOSE):
        raise ConfigError(
            f"{architecture.name} gives other logits when it is built again with the same weights, so something beside its state dict "
            "enters them: keep layers in nn.ModuleList or nn.ModuleDict instead of plain lists, random tensors in persistent buffers."
        )
