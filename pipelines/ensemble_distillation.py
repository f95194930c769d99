"""The offline way with many generators, each of some classes: shards of them learn side by side, and one set is drawn from all."""

from typing import Any

from kfp import dsl

from distillery.step_table import PIPELINES
from distillery_kfp.components.generator.train_generator.component import train_generator
from distillery_kfp.components.synthesis.materialize.component import materialize
from distillery_kfp.pipelines.graph import Form, nested, pipeline
from distillery_kfp.pipelines.wiring import begin, learn, step


@nested("ensemble_distillation", train_generator, materialize)
def shards(form: Form, sections: list[dict[str, Any]], section: dict[str, Any], statistics: dsl.Input[dsl.Artifact]) -> dsl.Dataset:
    """Train the shards of an ensemble and draw one set from all of them.

    A pipeline of its own, because kfp's local runner finds a list that another task made only across the border of one.
    """
    with dsl.ParallelFor(sections, parallelism=PIPELINES["ensemble_distillation"].parallel) as shard:
        train = step(train_generator, shard, form, statistics=statistics)
    made = dsl.Collected(train.outputs["synthesizer"])
    return step(materialize, section, form, statistics=statistics, synthesizers=made).outputs["dataset"]


@pipeline
def ensemble_distillation(form: Form) -> None:
    """Distil a teacher without its data: train an ensemble in shards, draw one synthetic set, train and register a student."""
    sections, form, moments = begin("ensemble_distillation", form)
    draw = shards(form, sections=sections["shards"], section=sections["materialize"], statistics=moments)
    learn(sections, form, draw.output)
