"""A network tried as the steps run it: order of images in memory, precision, batch sizes, gradients, train mode."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distillery.errors import ConfigError
from distillery.foreign_code import guarded
from distillery.grammar import counted
from distillery.models.catalog import Architecture, build_network, kept_settings
from distillery.models.neighbours import check_neighbours, is_close
from distillery.models.rebuilt import check_rebuilt
from distillery.numerics import exact
from distillery.runtime import Runtime
from distillery.seeding import seeded
from distillery.types import Classifier, ImageSpec, MemoryFormat

FLOAT32 = Runtime(torch.device("cpu"), "float32", 1)
_BATCHES = (2, 1, 3)
_BACKWARD = "take out what changes tensors in place, and hooks that fail"
_ONE = 1e-4  # how near to 1 a sum of probabilities is
_CLOSE = 1e-3  # of the largest logit; another order of summation stays far below


class Trial(NamedTuple):
    """What a network did in eval mode with the same images in batches of one, two and three.

    Attributes:
        memory_format: the order of images in memory that suits it.
        logits: by batch size, float32 on the CPU; those of n images are of the first n `probe_images`.
        blocked: why no gradient reaches the images, as a clause; "" where one does.
        random: whether the same images got other logits when they were shown again.
        written: names of buffers that a forward pass changed, though it was in eval mode.
        bfloat16: the sentence of its failure under autocast; "" where it was not tried or did not fail.
    """

    memory_format: MemoryFormat
    logits: dict[int, Tensor]
    blocked: str = ""
    random: bool = False
    written: tuple[str, ...] = ()
    bfloat16: str = ""


def probe_images(shape: tuple[int, int, int], n: int = max(_BATCHES)) -> Tensor:
    """Images (n, C, H, W) in [0, 1], in turn smooth patches and noise, because noise alone looks all the same to many networks.

    Args:
        shape: (C, H, W).
        n: how many.
    """
    draws = torch.Generator().manual_seed(0)
    noise = torch.rand(n, *shape, generator=draws)
    patches = nn.functional.interpolate(torch.rand(n, shape[0], 4, 4, generator=draws), size=shape[1:], mode="bilinear")
    return torch.where((torch.arange(n) % 2 == 0).view(-1, 1, 1, 1), patches, noise)


def settle(classifier: Classifier, name: str, runtime: Runtime = FLOAT32, train: bool = False) -> Trial:
    """Run a classifier and decide its `memory_format`: contiguous where it fails, blocks gradients or answers otherwise on channels-last.

    Args:
        classifier: it stands on the runtime's device in that order afterwards; weights, buffers and modes are as they were.
        name: of its architecture, for messages.
        runtime: bfloat16 is tried where its precision says so, after float32, in which labels and reports are always made.
        train: whether it is a student, whose train mode and gradients of weights are tried too.

    Raises:
        ConfigError: it keeps what is no tensor, fails in either order, gives anything but finite logits (N, K), answers for an image by
            what is beside it in the batch, or is a student that cannot be trained.
    """
    odd = [key for key, value in classifier.network.state_dict().items() if not isinstance(value, Tensor)]
    if odd:
        raise ConfigError(f"{name} keeps {odd[0]!r} in its state dict, which is no tensor, so no bundle can hold it: keep it as a buffer.")
    before, modes = _copies(classifier), _modes(classifier)
    try:
        with exact(runtime.device), torch.enable_grad():
            fast = _try(classifier, "channels_last", name, runtime, train)
            written = _restore(classifier, before)
            chosen = _choose(classifier, fast, name, runtime, train)
            _place(classifier, chosen.memory_format, name, runtime)
            _check_neighbours(chosen, classifier, name, runtime)
        failed = "" if chosen.blocked else _try_bfloat16(classifier, name, runtime, train)
    finally:
        _restore(classifier, before)
        _set_modes(modes)
    return chosen._replace(written=() if train else written, bfloat16=failed)


def confirm(classifier: Classifier, name: str, runtime: Runtime = FLOAT32) -> Trial:
    """Run an imported classifier again, in the order that its bundle says.

    Args:
        classifier: it stands on the runtime's device afterwards; weights, buffers and modes are as they were.
        name: of its architecture, for messages.
        runtime: as for `settle`.

    Raises:
        ConfigError: it fails, saying so where the other order would do, or answers for an image by what is beside it in the batch.
    """
    order = classifier.memory_format
    before, modes = _copies(classifier), _modes(classifier)
    try:
        with exact(runtime.device), torch.enable_grad():
            found = _try(classifier, order, name, runtime, train=False)
            if isinstance(found, ConfigError) and order == "channels_last":
                if isinstance(_try(classifier, "contiguous", name, runtime, train=False), Trial):
                    raise ConfigError(f"{name} takes contiguous images only, which its bundle does not say: import the teacher again.")
            if isinstance(found, ConfigError):
                raise found
            _check_neighbours(found, classifier, name, runtime)
        failed = "" if found.blocked else _try_bfloat16(classifier, name, runtime, train=False)
    finally:
        _restore(classifier, before)
        _set_modes(modes)
    return found._replace(bfloat16=failed)


def refuse_probabilities(trial: Trial, name: str) -> None:
    """Refuse a network that ends in a softmax.

    Raises:
        ConfigError: each row of its logits sums to 1, and none of them is negative.
    """
    if are_probabilities(trial.logits[max(trial.logits)].double()):
        raise ConfigError(
            f"{name} gives probabilities, not logits (each row sums to 1, as after a softmax): return what goes into its softmax, for "
            "distillation takes a softmax of its own, and of probabilities that is nearly uniform."
        )


def are_probabilities(rows: Tensor) -> bool:
    """Whether rows (N, K) are distributions over K classes."""
    return bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() <= _ONE).all())


def try_architecture(architecture: Architecture, spec: ImageSpec, num_classes: int, runtime: Runtime = FLOAT32) -> MemoryFormat:
    """Build a student and run it as training and evaluation will; ours without memory for weights, so that it costs next to nothing.

    Args:
        architecture: the student's.
        spec: images of their true size.
        num_classes: K.
        runtime: what it will train on.

    Returns:
        The order of images in memory that suits it.

    Raises:
        ConfigError: it cannot be built, run or trained so.
    """
    names = tuple(map(str, range(num_classes)))
    if ":" in architecture.name:  # a foreign factory may not know the meta device
        with seeded(0, "trial"):
            classifier = Classifier(build_network(architecture, spec, num_classes), spec, names)
        found = settle(classifier, architecture.name, runtime, train=True)
        refuse_probabilities(found, architecture.name)
        if found.bfloat16:
            raise ConfigError(found.bfloat16)
        if not found.random:
            with exact(runtime.device):
                check_rebuilt(classifier.eval(), architecture, probe_images(spec.shape).to(runtime.device))
        return found.memory_format
    with torch.device("meta"):
        classifier = Classifier(build_network(architecture, spec, num_classes), spec, names)
        images = torch.empty(max(_BATCHES), *spec.shape)
    for n in _BATCHES:
        _forward(classifier.eval(), architecture.name, images[:n])
    _train(classifier, architecture.name, images)
    return "channels_last"


def _try(classifier: Classifier, order: MemoryFormat, name: str, runtime: Runtime, train: bool) -> Trial | ConfigError:
    try:
        _place(classifier, order, name, runtime)
        images = probe_images(classifier.spec.shape).to(runtime.device)
        logits: dict[int, Tensor] = {}
        with seeded(0, "trial"), torch.no_grad():
            for n in _BATCHES:
                logits[n] = _forward(classifier, name, images[:n]).float().cpu()
        blocked, again = _to_images(classifier, name, images[:2])
        if train:
            _train(classifier, name, images)
    except ConfigError as error:
        return error
    random = again is not None and not is_close(again, logits[2], _CLOSE)
    return Trial(order, logits, blocked, random)


def _check_neighbours(trial: Trial, classifier: Classifier, name: str, runtime: Runtime) -> None:
    if not trial.random:
        images = probe_images(classifier.spec.shape).to(runtime.device)
        check_neighbours(classifier.eval(), name, images, trial.logits[1], trial.logits[len(images)])


def _place(classifier: Classifier, order: MemoryFormat, name: str, runtime: Runtime) -> None:
    classifier.memory_format = order
    advice = "leave to(), train() and eval() of nn.Module as they are, and keep weights in parameters and buffers"
    with guarded(f"{name} cannot be put on {runtime.device.type} in eval mode", advice):
        runtime.place(classifier).eval()


def _try_bfloat16(classifier: Classifier, name: str, runtime: Runtime, train: bool) -> str:
    """Why it fails where the steps autocast to bfloat16; "" where they do not, or it does not."""
    if runtime.precision == "float32":
        return ""
    images = probe_images(classifier.spec.shape).to(runtime.device)
    try:
        with runtime.autocast():
            failed, _ = _to_images(classifier, name, images[:2])
            if train:
                _train(classifier, name, images)
    except ConfigError as error:
        failed = str(error)
    return f"Under autocast to bfloat16 {failed.rstrip('.')}; set precision: float32 in the recipe." if failed else ""


def _forward(classifier: Classifier, name: str, images: Tensor) -> Tensor:
    """Logits (N, K), checked; the network is called by itself, so that its failure is told in the words of a trial."""
    n, size = len(images), "x".join(str(side) for side in images.shape[1:])
    mode = " in train mode" if classifier.training else ""
    apart = f" in a batch of {n}, though not of {_BATCHES[0]}" if n != _BATCHES[0] else ""
    advice = "make it independent of the batch size" if apart else "check channels, height and width, and that it takes float32"
    with guarded(f"{name} fails on images of {size}{mode}{apart}", advice), kept_settings():
        logits = classifier.network(classifier.prepare(classifier.arrange(images)))
    expected, shown = (n, classifier.num_classes), f"{counted(n, 'image')} of {size}{mode}"
    if not isinstance(logits, Tensor):
        raise ConfigError(
            f"{name} gives {type(logits).__name__} for {shown}, not logits of {expected}: wrap it in a module that "
            "returns the logits alone, or switch other outputs off (googlenet, inception_v3 of torchvision: argument aux_logits=false)."
        )
    if logits.dim() == 4 and tuple(logits.shape[:2]) == expected:
        raise ConfigError(
            f"{name} gives {tuple(logits.shape)} for {shown}, a class for each pixel: what is distilled are "
            f"classifiers, whose logits are {expected}; give a network that answers once an image."
        )
    if tuple(logits.shape) != expected:
        advice = "keep the dimension of the batch, flatten(1) instead of squeeze()" if apart else "check the class names"
        raise ConfigError(f"{name} gives {tuple(logits.shape)} for {shown}, not logits of {expected}: {advice}.")
    if not logits.is_floating_point():
        raise ConfigError(f"{name} gives logits of {logits.dtype}{mode}, not of floating point: return them before argmax or rounding.")
    if logits.layout != torch.strided or logits.device.type != images.device.type:
        found = f"{str(logits.layout).removeprefix('torch.')} logits on {logits.device.type}"
        raise ConfigError(f"{name} gives {found}{mode} for images on {images.device.type}: return dense logits where the images are.")
    if logits.device.type != "meta" and not torch.isfinite(logits).all():
        raise ConfigError(
            f"{name} gives logits that are not finite{mode}: the checkpoint is damaged or of another network, or classes are masked with "
            "infinity, where a large negative number would do."
        )
    return logits


def _to_images(classifier: Classifier, name: str, images: Tensor) -> tuple[str, Tensor | None]:
    """Why no gradient reaches the images, "" where one does; and their logits, where there are any."""
    images = classifier.arrange(images).detach().requires_grad_()
    shown = None
    try:
        with seeded(1, "trial"):
            logits = _forward(classifier, name, images)
        shown = logits.detach().float().cpu()
        if not logits.requires_grad:
            return "it cuts its logits off (no_grad, detach or a conversion within forward)", shown
        with guarded(f"{name} fails as gradients go back to its images", _BACKWARD):
            (gradient,) = torch.autograd.grad(_projected(logits), images, allow_unused=True)
    except ConfigError as error:
        return str(error).rstrip("."), shown
    if gradient is None or not gradient.any():
        return "no gradient comes through (rounding, a conversion to integers or detach within forward)", shown
    return "" if gradient.isfinite().all() else "its gradients are not finite", shown


def _train(classifier: Classifier, name: str, images: Tensor) -> None:
    """A step of a student without its optimizer: forward in train mode, back to the weights."""
    images = images[: _BATCHES[0]]
    weights = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    with guarded(f"{name} cannot be put in train mode", "leave nn.Module.train as it is"):
        classifier.train()
    logits = _forward(classifier, name, images)
    if not logits.requires_grad:
        raise ConfigError(
            f"{name} cuts its logits off from its weights in train mode (no_grad or detach within forward): it cannot be trained."
        )
    kept = [weight.grad for weight in weights]
    try:
        for weight in weights:
            weight.grad = None
        with guarded(f"{name} fails as gradients go back to its weights", _BACKWARD):
            _projected(logits).backward()
        gradients = [weight.grad for weight in weights]
    finally:
        for weight, gradient in zip(weights, kept, strict=True):
            weight.grad = gradient
    found = [gradient for gradient in gradients if gradient is not None]
    if not found:
        raise ConfigError(f"No gradient reaches any weight of {name} in train mode: it cannot be trained.")
    if not all(gradient.device.type == "meta" or bool(gradient.isfinite().all()) for gradient in found):
        raise ConfigError(
            f"{name} has gradients of weights that are not finite on random images: choose another student or initialisation."
        )


def _projected(logits: Tensor) -> Tensor:
    """A scalar that all logits enter with weights of their own: plain sums are constant where rows sum to 1."""
    logits = logits.float()
    return (logits * torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits).sin()).sum()


def _choose(classifier: Classifier, fast: Trial | ConfigError, name: str, runtime: Runtime, train: bool) -> Trial:
    """What to stay with after channels-last was tried: that, where contiguous images do no better and get the same logits."""
    if isinstance(fast, Trial) and not fast.blocked:
        _place(classifier, "contiguous", name, runtime)
        images = probe_images(classifier.spec.shape).to(runtime.device)
        with seeded(0, "trial"), torch.no_grad():
            logits = _forward(classifier, name, images[: _BATCHES[0]]).float().cpu()
        if fast.random or is_close(fast.logits[_BATCHES[0]], logits, _CLOSE):
            return fast
    plain = _try(classifier, "contiguous", name, runtime, train)
    if isinstance(plain, ConfigError):
        raise plain
    if isinstance(fast, Trial) and plain.blocked and (fast.random or is_close(fast.logits[_BATCHES[0]], plain.logits[_BATCHES[0]], _CLOSE)):
        return fast
    return plain


def _state(classifier: Classifier) -> dict[str, Tensor]:
    """Weights and buffers by name."""
    with guarded(f"The state of {type(classifier.network).__name__} cannot be read", "keep weights in parameters and buffers"):
        return {key: value for key, value in classifier.state_dict().items() if isinstance(value, Tensor)}


def _copies(classifier: Classifier) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in _state(classifier).items()}


def _modes(classifier: Classifier) -> list[tuple[nn.Module, bool]]:
    return [(part, part.training) for part in classifier.modules()]


def _set_modes(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    for part, training in modes:
        part.training = training


@torch.no_grad()
def _restore(classifier: Classifier, before: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Put weights and buffers back; the names of those that had changed."""
    changed = {key: value for key, value in _state(classifier).items() if not torch.equal(value, before[key].to(value.device))}
    for key, value in changed.items():
        value.copy_(before[key])
    return tuple(changed)
