"""`distillery invert`: images of every class from a teacher alone, and its moments of each class measured on them."""

from pathlib import Path
from typing import Annotated

import typer

from distillery_kfp.pipelines.cli import options
from distillery_kfp.pipelines.cli.stores import console


def invert(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|FILE.yaml", help="Of a method that optimises images, as deep_inversion/digits.")],
    teacher: Annotated[str, typer.Option(metavar="BUNDLE", help="Folder that `distillery import-teacher` wrote, or its URI.")],
    out: Annotated[Path, typer.Option(help="Folder for the reference to the set and for class-statistics.safetensors.")],
    per_class: Annotated[int, typer.Option(min=2, help="Images of each class, as the teacher sees them.")] = 300,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the recipe.")] = None,
    store: Annotated[str, typer.Option(help="Folder or s3:// URI for the set and checkpoints  \\[default: store in --out].")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random stream.")] = 0,
    device: options.Device = "",
    threads: options.Threads = 0,
) -> None:
    """Invert images of every class from a teacher, and measure its statistics of each class on them: no data is needed.

    `distillery run RECIPE --statistics` takes the file. Stopped, it goes on where it was when the same command is given again.
    """
    from distillery import TextProgress
    from distillery import invert as carry_out
    from distillery.provenance import sha256_file
    from distillery.recipes.loader import parse_assignments

    overrides = parse_assignments(set_ or [])
    made = carry_out(
        teacher,
        recipe,
        out.expanduser(),
        per_class,
        overrides=overrides,
        seed=seed,
        store=store,
        device=device,
        threads=threads,
        progress=TextProgress(),
    )
    numbers = "  ".join(f"{name} {value:,.4g}" for name, value in made.set.metrics.items() if "/" not in name)
    console().print(f"{made.set.uri}: {numbers}", markup=False, soft_wrap=True)
    console().print(f"{made.statistics}: sha256 {sha256_file(made.statistics)}", markup=False, soft_wrap=True)
