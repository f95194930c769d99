"""The offline way: a generator learns from the teacher alone, a set is drawn from it, and a student learns from the set."""

from distillery_kfp.components.generator.train_generator.component import train_generator
from distillery_kfp.components.synthesis.materialize.component import materialize
from distillery_kfp.pipelines.graph import Form, pipeline
from distillery_kfp.pipelines.wiring import begin, learn, step


@pipeline
def generative_distillation(form: Form) -> None:
    """Distil a teacher without its data: train a generator, draw a synthetic set, train and register a student."""
    sections, form, moments = begin("generative_distillation", form)
    train = step(train_generator, sections["generator"], form, statistics=moments)
    draw = step(materialize, sections["materialize"], form, statistics=moments, synthesizer=train.outputs["synthesizer"])
    learn(sections, form, draw.outputs["dataset"])
