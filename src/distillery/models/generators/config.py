"""What a generator is built from; imports no torch."""

from typing import Any, Literal

from pydantic import Field, model_validator

from distillery.config import Config

# Each published generator ends in its own squashing function; a config that names none gets that one.
_PUBLISHED_OUTPUT = {"generator": "sigmoid", "large_generator": "sigmoid", "conditional": "tanh", "deep_conditional": "tanh"}


class GeneratorConfig(Config):
    """Settings of a generator.

    Attributes:
        name: generator and large_generator as in the family of CMI and FastDFKD; conditional as in LS-GDFD on CIFAR, two upsamplings,
            deep_conditional as there on ImageNet, five of them at one width (published with a latent of 512).
        latent: size of z.
        width: the paper's ngf: channels before the last convolution; earlier stages have 2x or 4x as many.
        condition: one_hot appends the asked label to z; none ignores labels.
        condition_scale: what stands for 1 in the one-hot part. Against a long z (1024) a larger value makes labels count sooner.
        output: sigmoid, or tanh mapped to [0, 1]; both are the same curve at another slope. Unset, it is the published one of `name`.
            batchnorm ends in a BatchNorm with scale and shift, as ZSKT does, tanh_batchnorm in a tanh and a BatchNorm without, as DAFL,
            DFAD and DFQ do: these two speak in the teacher's normalised space, see `Generator`.
        norm_epsilon: BatchNorm's epsilon in the convolution stages. The reference code of LS-GDFD has 0.8 there, by all signs a
            momentum in the wrong place: it mutes a stage whose variance is small. The default is PyTorch's.
        initialisation: normal draws weights from N(0, 0.02) and BatchNorm scales from N(1, 0.02), as CMI does; torch keeps PyTorch's own,
            as the published FastDFKD code does.
    """

    name: Literal["generator", "large_generator", "conditional", "deep_conditional"]
    latent: int = Field(default=256, ge=1)
    width: int = Field(default=64, ge=1)
    condition: Literal["none", "one_hot"] = "none"
    condition_scale: float = Field(default=1.0, gt=0)
    output: Literal["sigmoid", "tanh", "batchnorm", "tanh_batchnorm"] = "sigmoid"
    norm_epsilon: float = Field(default=1e-5, gt=0)
    initialisation: Literal["normal", "torch"] = "normal"

    @model_validator(mode="before")
    @classmethod
    def _published_output(cls, values: Any) -> Any:
        if isinstance(values, dict) and "output" not in values and values.get("name") in _PUBLISHED_OUTPUT:
            return {**values, "output": _PUBLISHED_OUTPUT[values["name"]]}
        return values
