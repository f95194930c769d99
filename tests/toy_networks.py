"""Networks of a few channels as users write them, right ones and wrong ones; named in tests as `toy_networks:NAME`."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Pooled(nn.Module):
    """A convolution, BatchNorm and a head over all that is left: what the others change a line of."""

    def __init__(self, num_classes: int = 3, channels: int = 3, size: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * (size // 2) ** 2, num_classes)

    def features(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x).flatten(1))


class Viewed(Pooled):
    """Flattens with view, which no channels-last tensor allows."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x.view(x.size(0), -1))


class ViewedBefore(nn.Module):
    """Flattens the images themselves with view."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(192, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(x.size(0), -1))


class FiveDimensions(Pooled):
    """A weight of 5 dimensions, which has no channels-last order."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.place = nn.Parameter(torch.ones(1, 1, 2, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head((x.unflatten(1, (2, 2)) * self.place).flatten(1))


class ByMemory(Pooled):
    """Reads memory as it lies: other logits, without an error, where the order is another."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x.as_strided((len(x), 64), (64, 1)))


class SecondOrder(torch.autograd.Function):
    """Runs forward in any order, and back only where gradients are contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: D102
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # noqa: D102
        return gradient.view(len(gradient), -1).view(gradient.shape)


class ViewedBack(Pooled):
    """Fails as gradients go back through channels-last tensors."""

    def features(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(SecondOrder.apply(self.norm(self.conv(x))).relu(), 2)


class Squeezed(Pooled):
    """Loses the dimension of the batch where it is one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


class FixedBatch(Pooled):
    """Knows how many images there are."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).reshape(2, -1))


class Outputs(NamedTuple):
    """As torchvision's GoogLeNet has them."""

    logits: Tensor
    aux: Tensor


class Auxiliary(Pooled):
    """A second head in train mode."""

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return Outputs(logits, logits) if self.training else logits


class TooDeep(Pooled):
    """Its last convolution has less to look at than it needs."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.last = nn.Conv2d(4, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.features(x)).flatten(1))


class TrainsWrong(Pooled):
    """Fails in train mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double() if self.training else x)


class CutInTraining(Pooled):
    """Trains nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach() if self.training else super().forward(x)


class Blocked(Pooled):
    """Without gradients, under no_grad."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Inference(Pooled):
    """Without gradients, under inference_mode, whose tensors autograd refuses to keep."""

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class DetachedInPlace(Pooled):
    """Cuts its images off in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach_())


class Rounded(Pooled):
    """Puts its images back on 256 levels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 255).to(torch.uint8).float() / 255)


class ThroughNumpy(Pooled):
    """Leaves torch on the way, which autograd refuses."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(x.numpy() + 0))


class WrittenInPlace(Pooled):
    """Changes what autograd needs."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).sigmoid()
        return self.head(functional.max_pool2d(x.mul_(2) * x.sigmoid_(), 2).flatten(1))


class Softmaxed(Pooled):
    """Ends in probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class LogSoftmaxed(Pooled):
    """Ends in their logarithms."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log_softmax(1)


class Sigmoided(Pooled):
    """Ends in probabilities, one a class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


class Dropping(Pooled):
    """Drops features in eval mode as well."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.dropout(self.features(x).flatten(1)))


class Counting(Pooled):
    """Counts its passes in a buffer that enters the logits."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


class Classes(Pooled):
    """Gives the class, not its logits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).round().long()


class Full(Pooled):
    """Has no memory left."""

    def forward(self, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Float32Only(Pooled):
    """Fails under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return torch.zeros(logits.shape).index_add_(0, torch.arange(len(x)), logits)


class Unprintable(Exception):
    """An error whose message fails itself."""

    def __str__(self) -> str:
        raise RuntimeError("no message")


class Silent(Pooled):
    """Fails without words."""

    def forward(self, x: Tensor) -> Tensor:
        raise Unprintable


class Stopped(Pooled):
    """Wants to end the process."""

    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(3)


class RefusesWeights(Pooled):
    """Has a hook that looks at what is loaded."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.register_load_state_dict_pre_hook(self._look)

    @staticmethod
    def _look(*_: Any) -> None:
        raise KeyError("not these")


class RaisesWhenBuilt(nn.Module):
    """Cannot be built."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        raise Unprintable


class HiddenParts(Pooled):
    """Cannot be looked into."""

    def named_modules(self, *_: Any, **__: Any) -> Any:
        raise Unprintable


class NoState(Pooled):
    """Has no state dict."""

    def state_dict(self, *_: Any, **__: Any) -> Any:
        raise Unprintable


class NoModes(Pooled):
    """Cannot be put in eval mode."""

    def train(self, mode: bool = True) -> "NoModes":
        raise Unprintable


class NoMoves(Pooled):
    """Cannot be put on a device."""

    def _apply(self, fn: Any, recurse: bool = True) -> "NoMoves":
        raise Unprintable


class NoCopy(Pooled):
    """Keeps a computed tensor, which deepcopy refuses."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.cached = self.head.weight * 1


class GradientsOff(Pooled):
    """Switches gradients off for the whole process, as scripts for inference do."""

    def __init__(self, num_classes: int = 3) -> None:
        torch.set_grad_enabled(False)
        super().__init__(num_classes)


class Sparse(Pooled):
    """Answers in a layout that no loss takes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to_sparse()


class Elsewhere(Pooled):
    """Answers on another device."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to("meta")


class Masked(Pooled):
    """Rules a class out by infinity."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tensor([0.0, 0.0, -torch.inf])


class NoWeights(Pooled):
    """Does not say what it is made of."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        raise RuntimeError("no parameters")


class DoubleInForward(Pooled):
    """Sets the whole process to double precision whenever it is run."""

    def forward(self, x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return super().forward(x)


class GradientsOffInForward(Pooled):
    """Does so whenever it is run."""

    def forward(self, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return super().forward(x)


class Reentrant(Pooled):
    """Trains with checkpoints of the older kind, which know backward() alone."""

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        x = self.conv(x)
        return self.head(checkpoint(lambda x: functional.max_pool2d(self.norm(x).relu(), 2), x, use_reentrant=True).flatten(1))
