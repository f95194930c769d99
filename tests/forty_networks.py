"""Forty networks as people build them, a few channels each on 3x8x8; named in tests as `forty_networks:NAME`.

Together with the wrong ones of `toy_networks` they are what `contract/test_forty_networks.py` sends through every stage.
"""

import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth


class Net(nn.Module):
    """Convolution, norm, convolution, and a linear head over what is left: what the others change a line of."""

    def __init__(self, norm: nn.Module | None = None, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6) if norm is None else norm
        self.last = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4 * 16, num_classes)

    def features(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).relu()).relu()

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x).flatten(1))


class Viewed(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x.view(x.size(0), -1))


class Reshaped(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).reshape(x.size(0), -1))


class Strided(Net):
    """Reads memory as it lies."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).as_strided((len(x), 64), (64, 1)))


class ChannelsLastOnly(Net):
    """Takes no other order than the one that is tried second."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).permute(0, 2, 3, 1)
        return self.head(x.view(len(x), -1))


class OnChannelsLast(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class OwnBatchNorm(nn.BatchNorm2d):
    """With an activation inside, as timm has it."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class OwnStatistics(nn.Module):
    """Keeps statistics without being a BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(x.mean((0, 2, 3)), 0.1)
                self.running_var.lerp_(x.var((0, 2, 3)), 0.1)
        return (x - self.running_mean[:, None, None]) / (self.running_var[:, None, None] + 1e-5).sqrt()


class VectorNorm(Net):
    """BatchNorm1d before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.BatchNorm1d(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.vector(self.features(x).flatten(1)))


class ConvolutionHead(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).mean((2, 3))


class TwoBranches(Net):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"wide": nn.BatchNorm2d(6), "narrow": nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))})

    def features(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last(sum(branch(x) for branch in self.branches.values()).relu()).relu()


class TwoOutputs(Net):
    def forward(self, x: Tensor) -> Any:
        features = self.features(x).flatten(1)
        return self.head(features), features


class DictOutput(Net):
    def forward(self, x: Tensor) -> Any:
        return OrderedDict(logits=super().forward(x))


class Output:
    """As model hubs wrap logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class ObjectOutput(Net):
    def forward(self, x: Tensor) -> Any:
        return Output(super().forward(x))


class AuxiliaryHead(Net):
    """A second head, with a norm of its own, that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Any:
        features = self.features(x)
        logits = self.head(features.flatten(1))
        return (logits, self.aux(features)) if self.training else logits


class AuxiliarySum(AuxiliaryHead):
    """The same, added to the logits, so that it can be trained."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found[0] + 0.3 * found[1] if isinstance(found, tuple) else found


class InModuleList(Net):
    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.blocks = nn.ModuleList([nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6)])

    def features(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x).relu()


class SharedLayer(Net):
    def features(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return self.last(self.norm(x + 1).relu()).relu()


class TwoNames(Net):
    def __init__(self) -> None:
        super().__init__()
        self.alias = self.norm

    def features(self, x: Tensor) -> Tensor:
        return self.last(self.alias(self.conv(x)).relu()).relu()


class LazyParts(Net):
    def __init__(self) -> None:
        super().__init__(nn.LazyBatchNorm2d())
        self.conv = nn.LazyConv2d(6, 3, padding=1)
        self.head = nn.LazyLinear(3)


class WeightNormed(Net):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.conv)


class OldWeightNormed(Net):
    """By hooks, as before parametrizations."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            nn.utils.weight_norm(self.conv)


class SpectralNormed(Net):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.spectral_norm(self.last)


class HookedOutput(Net):
    """Its own hook changes what the norm gives."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.register_forward_hook(lambda module, inputs, output: output * 0.5)


class HookedInput(Net):
    """Its own hook changes what the norm gets."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.25,))


class Checkpointed(Net):
    def features(self, x: Tensor) -> Tensor:
        x = checkpoint(lambda value: self.norm(self.conv(value)).relu(), x, use_reentrant=False)
        assert isinstance(x, Tensor)
        return self.last(x).relu()


class InPlace(Net):
    """Writes into the images that it gets, and into its own maps."""

    def features(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(functional.relu(x, inplace=True)), inplace=True)
        return functional.relu_(self.last(functional.relu_(self.norm(x))))


class DoubleInside(Net):
    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class HalfInside(Net):
    def __init__(self) -> None:
        super().__init__()
        self.half()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.half()).float()


class ComplexBuffer(Net):
    """Filters its images in frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("response", torch.polar(torch.linspace(1, 0.5, 40).view(8, 5), torch.linspace(0, 1, 40).view(8, 5)))

    def features(self, x: Tensor) -> Tensor:
        return super().features(torch.fft.irfft2(torch.fft.rfft2(x) * self.response, s=x.shape[-2:]))


class ExtraState(Net):
    """Keeps what is no tensor in its state dict."""

    def get_extra_state(self) -> Any:
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 3}


class SharedBuffers(Net):
    """Two norms of the same statistics and weights."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(6)
        self.other.running_mean, self.other.running_var = self.norm.running_mean, self.norm.running_var
        self.other.weight = self.norm.weight

    def features(self, x: Tensor) -> Tensor:
        return self.last(self.other(self.norm(self.conv(x)).relu()).relu()).relu()


class TiedWeights(Net):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.again.weight = self.last.weight

    def features(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return (self.last(x) + self.again(x.flip(3))).relu()


class Dropping(Net):
    """Dropout and stochastic depth, in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.depth = nn.Dropout2d(0.3), StochasticDepth(0.5, "row")

    def features(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last((x + self.depth(self.norm(x))).relu()).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.features(x)).flatten(1))


class Scripted(Net):
    """A part of it is a script."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():  # torch is giving scripts up, users have not
            warnings.simplefilter("ignore")
            self.script = torch.jit.script(nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)))

    def features(self, x: Tensor) -> Tensor:
        return self.last(self.script(self.norm(self.conv(x)).relu()).relu()).relu()


class Marked(Tensor):
    """A tensor class with `__torch_function__`."""


class Subclassed(Net):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x.as_subclass(Marked))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).as_subclass(Tensor)


class ByKeyword(Net):
    def features(self, x: Tensor) -> Tensor:
        return self.last(self.norm(input=self.conv(input=x)).relu()).relu()


class DirectForward(Net):
    def features(self, x: Tensor) -> Tensor:
        return self.last.forward(self.norm.forward(self.conv.forward(x)).relu()).relu()


class FunctionalNorm(Net):
    def features(self, x: Tensor) -> Tensor:
        norm = self.norm
        x = functional.batch_norm(self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training)
        return self.last(x.relu()).relu()


class Conditional(Net):
    """Goes the longer way for large images only."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.BatchNorm2d(3), nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.reduce(x) if x.shape[-1] > 8 else x)


class Attending(Net):
    """A transformer layer, whose fast path runs in eval mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def features(self, x: Tensor) -> Tensor:
        x = super().features(x)
        return self.attention(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (4, 4))


class Overwriting(Net):
    """Writes into a norm's input after the norm has read it."""

    def __init__(self) -> None:
        super().__init__(OwnStatistics(6))

    def features(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.last((self.norm(x) + x.mul_(0.5)).relu()).relu()


class Counting(Net):
    """Counts its passes in a buffer that no answer depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


def batch_norm() -> nn.Module:
    return Net()


def sync_batch_norm() -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(Net())


def frozen_batch_norm() -> nn.Module:
    return Net(FrozenBatchNorm2d(6))


def own_batch_norm() -> nn.Module:
    return Net(OwnBatchNorm(6))


def own_statistics() -> nn.Module:
    return Net(OwnStatistics(6))


def group_norm() -> nn.Module:
    return Net(nn.GroupNorm(2, 6))


def layer_norm() -> nn.Module:
    return Net(OnChannelsLast(6))


def instance_norm() -> nn.Module:
    return Net(nn.InstanceNorm2d(6, affine=True))


def tracked_instance_norm() -> nn.Module:
    return Net(nn.InstanceNorm2d(6, affine=True, track_running_stats=True))


def no_norm() -> nn.Module:
    return Net(nn.Identity())


def untracked_norm() -> nn.Module:
    return Net(nn.BatchNorm2d(6, track_running_stats=False))


def data_parallel() -> nn.Module:
    return nn.DataParallel(Net())


def whole_script() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))
    return made


class Unregistered(Net):
    """Keeps a layer where no state dict finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.more = [nn.Conv2d(3, 3, 1)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.more[0](x))


class Routed(Net):
    """Sends bright images another way."""

    def features(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        bright = x.mean((1, 2, 3)) > 1e3
        x = x.index_put((bright,), self.norm(x[bright])) if bool(bright.any()) else self.norm(x)
        return self.last(x.relu()).relu()
