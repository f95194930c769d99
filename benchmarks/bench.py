"""`make bench`: FastDFKD's two halves, ours and the plain rival in turn, on one machine, one set of weights, in one process tree.

Prints the median of each, an ablation ladder (ours with one of the rival's habits put back at a time), and what ours does alone; writes
hardware, versions, settings and every sample as JSON. The last two lines are the ratios. Exits 1 where a processor with native bfloat16
shows less than 4x on the student's loop or 5x on synthesis; elsewhere it only reports.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alone import grow, materialize
from contest import HABITS, TINY, Scene, Side, Size, Timing, build_scene
from distillery.runtime import resolve_runtime
from measure import document, middle, rounded, write
from stacks import TINY as TINY_STACKS
from stacks import stacked
from worker import RIVAL, Worker

BARS = {"student_loop": 4.0, "synthesis": 5.0}
UNITS = {"student_loop": "images/s", "synthesis": "s a call"}


@dataclass
class Samples:
    """What was measured of one side.

    Attributes:
        student_loop: images a second, a number a round.
        synthesis: seconds of a call.
        timings: what the first were computed from.
    """

    student_loop: list[float] = field(default_factory=list)
    synthesis: list[float] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Every sample, rounded."""
        steps = [{"start": round(t.start, 4), "seconds": round(t.steps, 4), "steps": t.count} for t in self.timings]
        return {"student_loop": rounded(self.student_loop, 2), "synthesis": rounded(self.synthesis), "steps": steps}


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Attributes:
        rounds: of the main comparison, after one to warm up.
        ladder_rounds: of each habit, after one to warm up; 0 leaves the ladder out.
        steps: of the student in a round; the reader's start is counted once a pass all the same.
        growth_rounds: rounds over which the pool grows; 0 leaves that out.
        materialized: images of the materialized set; 0 leaves it out.
        stack_rounds: of generators at once against one after another, after one to warm up; 0 leaves it out.
        habits: of the ladder.
    """

    rounds: int = 5
    ladder_rounds: int = 2
    steps: int = 4
    growth_rounds: int = 200
    materialized: int = 1024
    stack_rounds: int = 3
    habits: tuple[str, ...] = tuple(HABITS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Options()
    parser.add_argument("--out", type=Path, default=Path(".bench/bench.json"), help="the JSON to write")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 is torch's choice")
    for name, value in vars(defaults).items():
        if name == "habits":
            continue
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--habits", default=",".join(HABITS), help=f"of the ladder: some of {', '.join(HABITS)}")
    parser.add_argument("--tiny", action="store_true", help="networks of toy size: checks this program, measures nothing")
    given = parser.parse_args(arguments)
    numbers = {name: getattr(given, name) for name in vars(defaults) if name != "habits"}
    options = Options(**numbers, habits=tuple(given.habits.split(",")))
    runtime = resolve_runtime(given.device, "auto", given.threads)
    size = TINY if given.tiny else Size()
    with TemporaryDirectory(prefix="bench-") as folder:
        scene = build_scene(size, runtime, Path(folder))
        fields = {"tiny": given.tiny, "setting": describe(scene, size, options), **measure(scene, options, given.tiny)}
    record = document("speed", runtime, fields)
    write(given.out, record)
    print(f"written: {given.out}")
    for name, ratio in record["ratios"].items():
        print(f"{name} {ratio:.1f}x")
    held_to = runtime.device.type == "cpu" and record["hardware"]["native_bfloat16"] and not given.tiny
    return int(held_to and any(ratio < BARS[name] for name, ratio in record["ratios"].items()))


def measure(scene: Scene, options: Options, tiny: bool) -> dict[str, Any]:
    """Everything that is measured, printed as it comes."""
    with Worker(scene) as ours, Worker(scene, RIVAL) as rival:
        main_samples = compare(scene, [ours, rival], options.rounds, options.steps)
    summary = {side: {half: round(middle(getattr(found, half)), 3) for half in BARS} for side, found in main_samples.items()}
    ratios = {
        "student_loop": round(summary["ours"]["student_loop"] / summary["rival"]["student_loop"], 3),
        "synthesis": round(summary["rival"]["synthesis"] / summary["ours"]["synthesis"], 3),
    }
    show(f"ours and the rival, median of {options.rounds} rounds", summary)
    ladder = climb(scene, options)
    alone: dict[str, Any] = {}
    if options.materialized:
        alone["materialize"] = materialize(scene, options.materialized)
        print(
            f"materialize: {alone['materialize']['images_per_second']:.0f} images/s of {options.materialized} drawn, labelled and written"
        )
    if options.growth_rounds:
        alone["growth"] = grow(options.growth_rounds, scene.folder)
        growth = alone["growth"]
        print(
            f"a round while the pool grows to {growth['images']:,} images: {growth['first']:.3f} s at first, {growth['last']:.3f} s at last"
        )
    if options.stack_rounds:
        alone["stacks"] = stacked(scene.runtime, options.stack_rounds, *(TINY_STACKS if tiny else ()))
    samples = {name: found.to_json() for name, found in main_samples.items()}
    return {"n": options.rounds, "summary": summary, "ratios": ratios, "ladder": ladder, "alone": alone, "samples": samples}


def compare(scene: Scene, sides: Sequence[Side], rounds: int, steps: int) -> dict[str, Samples]:
    """Let sides do the same in turn, each round begun by another; the first round warms up and is dropped."""
    found = {side.name: Samples() for side in sides}
    for number in range(rounds + 1):
        turn = number % len(sides)
        for side in (*sides[turn:], *sides[:turn]):
            timing = side.train(steps if number else 1)
            seconds = side.synthesize()
            if number:
                found[side.name].timings.append(timing)
                found[side.name].student_loop.append(timing.images_per_second(scene.batch, scene.pool_batches))
                found[side.name].synthesis.append(seconds)
    return found


def climb(scene: Scene, options: Options) -> dict[str, Any]:
    """Ours with one habit put back at a time, in turn with ours as it is."""
    ladder: dict[str, Any] = {}
    if not options.ladder_rounds:
        return ladder
    with Worker(scene) as ours:
        for habit in options.habits:
            meaning, halves = HABITS[habit]
            ladder[habit] = rung = {"meaning": meaning, "n": options.ladder_rounds}
            if habit == "float32" and scene.runtime.precision == "float32":
                rung["note"] = "no other: without native bfloat16 ours computes in float32"
                continue
            with Worker(scene, habit) as back:
                for half in halves:
                    plain, with_habit = alternate(scene, (ours, back), half, options)
                    means = middle(plain), middle(with_habit)
                    slower = means[0] / means[1] if half == "student_loop" else means[1] / means[0]
                    rung[half] = {"ours": rounded(plain, 3), "with_habit": rounded(with_habit, 3), "slower": round(slower, 3)}
    show_ladder(ladder)
    return ladder


def alternate(scene: Scene, sides: Sequence[Side], half: str, options: Options) -> list[list[float]]:
    """One half of both sides, in turn; one each to warm up."""
    values: list[list[float]] = [[] for _ in sides]
    for number in range(options.ladder_rounds + 1):
        for side, numbers in zip(sides, values, strict=True):
            if half == "synthesis":
                value = side.synthesize()
            else:
                value = side.train(options.steps if number else 1).images_per_second(scene.batch, scene.pool_batches)
            if number:
                numbers.append(value)
    return values


def describe(scene: Scene, size: Size, options: Options) -> dict[str, Any]:
    """What was measured, for the reader of the JSON."""
    return {
        **vars(options),
        "recipe": size.recipe,
        "teacher": size.teacher.to_json(),
        "student": scene.recipe.student.architecture.to_json(),
        "batch": scene.batch,
        "synthesis_batch": scene.method.batch,
        "k": scene.method.steps,
        "pool_batches": scene.pool_batches,
        "pixels": scene.teacher.spec.height,
    }


def show(title: str, summary: dict[str, dict[str, float]]) -> None:
    """The two halves, a side a line."""
    print(title)
    for side, values in summary.items():
        print(f"  {side:<8}" + "".join(f"{values[half]:>10.2f} {UNITS[half]}" for half in BARS))


def show_ladder(ladder: dict[str, Any]) -> None:
    """How much slower each habit makes each half."""
    print("ours with one habit of the rival put back")
    for habit, rung in ladder.items():
        told = [f"{half} {rung[half]['slower']:.2f}x slower" for half in BARS if half in rung]
        print(f"  {habit:<9} {rung['meaning']}: {', '.join(told) or rung['note']}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    sys.exit(main())
