"""Generators of an ensemble, a few at once as one network against one after another; also by itself, which takes a minute."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contest import SEED
from distillery.methods.ls_gdfd import LSGDFD, LSGDFDConfig
from distillery.models.catalog import Architecture, build_network
from distillery.runtime import Runtime, resolve_runtime
from distillery.seeding import seeded
from distillery.statistics.extract import global_moments
from distillery.synthesis.protocol import Ingredients
from distillery.synthesis.share import Share
from distillery.synthesis.stack_memory import stack_memory
from distillery.types import Classifier, ImageSpec
from measure import document, middle, rounded, timed, write

TEACHER = Architecture(name="wrn_10_2")
SPEC = ImageSpec(channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))
CLASSES = 100
GENERATORS, IMAGES = (10, 100), (16, 64)
TINY = ((2, 3), (4,))


def stacked(runtime: Runtime, rounds: int, generators: Sequence[int] = GENERATORS, images: Sequence[int] = IMAGES) -> list[dict[str, Any]]:
    """Seconds of one step of all generators, trained as one share and as shares of one generator each, in turn.

    Both compute the same, with the same code: only how many generators stand in one network differs.

    Args:
        runtime: device, precision and threads.
        rounds: of each, after one to warm up.
        generators: how many, each of one of a hundred classes.
        images: of each generator and step.
    """
    with seeded(SEED, "stacks"):
        teacher = runtime.place(Classifier(build_network(TEACHER, SPEC, CLASSES), SPEC, tuple(map(str, range(CLASSES)))).freeze())
    moments = global_moments(teacher, "0" * 64).to(runtime.device)
    rows = []
    for count in generators:
        for batch in images:
            config = LSGDFDConfig.parse(
                {"generator": {"name": "conditional", "latent": 64, "width": 16, "condition": "one_hot"}, "batch": batch}
                | {"steps_per_round": 1}
            )
            shares = [Share(0, count, CLASSES)], [Share(index, index + 1, CLASSES) for index in range(count)]
            sides = [
                [LSGDFD(config, Ingredients(teacher, runtime, SEED, moments, diagnose=False, share=share)) for share in side]
                for side in shares
            ]
            samples: list[list[float]] = [[], []]
            for number in range(rounds + 1):
                for side, taken in zip(sides, samples, strict=True):
                    with timed(runtime.device) as lap:
                        for method in side:
                            method.advance(None)
                    if number:
                        taken.append(lap.seconds)
            memory = stack_memory(config, teacher, CLASSES, runtime.device)
            together, apart = map(middle, samples)
            rows.append(
                {"generators": count, "images": batch, "n": rounds, "at_once": min(memory.learning, count)}
                | {"faster": round(apart / together, 3), "stacked": rounded(samples[0], 4), "one_after_another": rounded(samples[1], 4)}
                | {"bytes_at_rest": memory.resident, "bytes_learning": memory.gradients + memory.activations}
            )
            show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """One line."""
    rest, learning = (row[name] / 2**20 for name in ("bytes_at_rest", "bytes_learning"))
    print(
        f"stacked against one after another: {row['faster']:.2f}x with {row['generators']} generators of {row['images']} images, "
        f"{row['at_once']} at once; a generator takes {rest:.1f} MiB, and {learning:.1f} more while it learns"
    )


if __name__ == "__main__":
    here = resolve_runtime("auto", "auto", 0)
    write(Path(".bench/stacks.json"), document("stacks", here, {"rows": stacked(here, 5)}))
    sys.exit(0)
