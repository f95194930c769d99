"""Options that commands share, and those of the longest commands: each declared once, by the name and words that `--help` shows."""

from pathlib import Path
from typing import Annotated

import typer

Bundle = Annotated[str, typer.Option(metavar="BUNDLE", help="Folder that `distillery import-teacher` wrote.")]
TestImages = Annotated[
    str, typer.Option(help="Labelled test images (npz, npy, idx or CIFAR files, or a folder a class); only the evaluation sees them.")
]
Images = Annotated[
    str, typer.Option(metavar="SET|IMAGES", help="Set made before, or real images, for a recipe that only trains a student on them.")
]
StartSet = Annotated[str, typer.Option(metavar="SET", help="Set of the same teacher with which the pool of an online method begins.")]
OodImages = Annotated[
    str,
    typer.Option(metavar="PICTURES|SET", help="Images of another domain, for methods that learn from some and stages with an ood_share."),
]
Moments = Annotated[str, typer.Option(metavar="FILE", help="The teacher's moments, measured before, such as those of each class.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: --set synthesis.rounds=40.")]
StudentMethod = Annotated[
    str, typer.Option(metavar="PLAN", help="Plan of the student's training instead of the recipe's: kd, fsp-kd, fitnets ...")
]
StudentStart = Annotated[
    str, typer.Option(metavar="BUNDLE", help="A student trained before, or a teacher, with whose weights the student begins.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random stream.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto is cuda where there is one.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 is torch's choice.")]
Salt = Annotated[str, typer.Option(help="Any text; a new one does finished work again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the resolved recipe and what it would cost here.")]

RunStore = Annotated[str, typer.Option(help="Folder for students, sets, checkpoints and run records.")]
RunWorkdir = Annotated[
    str, typer.Option(help="Local folder for logs, locks and MLflow's database  \\[default: .distillery beside the store].")
]
StepWorkdir = Annotated[str, typer.Option(help="Folder for checkpoints, logs and locks  \\[default: .distillery beside --out].")]

SourceImages = Annotated[
    str,
    typer.Option(
        metavar="SET|IMAGES",
        help="Train on a set (its folder or URI, or a step's output folder with reference.json), or on real images "
        "(npz, npy, idx or CIFAR files, a folder of pictures): with labels the ceiling, which a data owner can run.",
    ),
]
SourceSynthesizer = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Train on new images for each step, from this trained synthesizer.")
]
SourceStatistics = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The teacher's statistics, where the synthesizer's method needs them.")
]
StageOod = Annotated[
    str, typer.Option(metavar="PICTURES|SET", help="Images of another domain, for stages of the recipe with an ood_share.")
]
