"""What `distillery recipes`, `methods` and `objectives` show, read from plain data: neither torch nor kfp nor mlflow is imported."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from distillery.host import spoken
from distillery.methods.catalog import METHODS, NEEDS
from distillery.plain_yaml import write_yaml
from distillery.recipes.loader import Preset, list_recipes, load_document, pipeline_of, recipe_name
from distillery.recipes.parameters import parameters_of
from distillery.recipes.student_plans import find_plan, plan_names
from distillery.students.catalog import NEEDS as OBJECTIVE_NEEDS
from distillery.students.catalog import OBJECTIVES

_ASKED = {"teacher_uri": "BUNDLE", "images_uri": "IMAGES", "eval_data_uri": "TEST_IMAGES"}
"""What a run is given on the command line where its pipeline takes it, and what stands for it in an example."""


def show_recipes(console: Console, folder: str = "") -> None:
    """One line a recipe.

    Args:
        console: shows them.
        folder: what their names begin with, before the slash; "" for all.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("recipe", "data", "teacher it expects", "student"):
        table.add_column(heading, no_wrap=heading == "recipe", overflow="fold")
    for heading in ("images", "student steps"):
        table.add_column(heading, justify="right")
    for recipe in list_recipes():
        if folder and not recipe.name.startswith(f"{folder}/"):
            continue
        about = recipe.about
        costs = (f"{about.get('images', 0):,}", f"{about.get('student_steps', 0):,}")
        table.add_row(recipe.name, *(str(about.get(key, "")) for key in ("dataset", "teacher", "student")), *costs)
    console.print(table)
    console.print("\nimages: synthetic images that the student is trained on; steps: its optimizer steps.", highlight=False)
    first, *others = _commands([recipe for recipe in list_recipes() if not folder or recipe.name.startswith(f"{folder}/")])
    console.print(f"Next: distillery recipes NAME, or {first[1]}", highlight=False, soft_wrap=True)
    for folders, command in others:
        console.print(f"For {', '.join(folders)}: {command}", highlight=False, soft_wrap=True)


def show_recipe(console: Console, name: str) -> None:
    """One recipe whole: what it is and what it costs, as comments, and every value that it sets: YAML that is a file of your own.

    Raises:
        DistilleryError: there is no such recipe.
    """
    document = load_document(name)
    about: Mapping[str, Any] = document.pop("about", {})
    method = METHODS.get(str(document.get("synthesis", {}).get("method", "")))
    console.print(f"# [bold]{recipe_name(name)}[/bold]: {about.get('title', '')}", highlight=False, soft_wrap=True)
    facts = {
        key: about[key] for key in ("paper", "table", "dataset", "teacher", "student", "published", "weights", "minutes") if about.get(key)
    }
    facts |= {"images": f"{about.get('images', 0):,} synthetic", "student steps": f"{about.get('student_steps', 0):,}"}
    facts["pipeline"] = pipeline_of(document) + (f" ({method.title}, {method.coupling})" if method else "")
    for key, value in facts.items():
        console.print(f"#   {key:<14}{value}", highlight=False, soft_wrap=True, markup=False)
    console.print("# Its values; any of them can be replaced by --set section.key=value:\n", highlight=False)
    console.print(write_yaml(document, default_flow_style=None, width=120), highlight=False, markup=False, soft_wrap=True)
    console.print(f"# Next: {_command(recipe_name(name), pipeline_of(document))}", highlight=False, markup=False, soft_wrap=True)


def _commands(presets: Sequence[Preset]) -> list[tuple[list[str], str]]:
    """Every way in which some of the presets are run, the commonest first, with the folders whose presets are run so."""
    ways: dict[str, list[str]] = {}
    for preset in presets:
        ways.setdefault(_command("NAME", preset.pipeline), []).append(preset.name.partition("/")[0])
    ordered = sorted(ways.items(), key=lambda way: -len(way[1]))
    return [(list(dict.fromkeys(folders)), command) for command, folders in ordered]


def _command(name: str, pipeline: str) -> str:
    """`distillery run` with all that a run of the pipeline cannot do without, and test images where it looks at some."""
    fields = parameters_of(pipeline)
    asked = [f"{spoken(field)} {words}" for field, words in _ASKED.items() if fields[field].means_something(pipeline)]
    return " ".join(["distillery run", name, *asked])


def show_methods(console: Console) -> None:
    """One line a method."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("method", "paper", "optimises", "student", "needs", "what it does"):
        table.add_column(heading, no_wrap=heading == "method", overflow="fold")
    for method in METHODS.values():
        needs = ", ".join(dict.fromkeys(NEEDS[need] for need in method.needs)) or "nothing"
        needs += "".join(f"; with {setting} {NEEDS[need]}" for need, setting in method.takes.items())
        table.add_row(method.name, method.paper, f"the {method.target}", method.coupling, needs, method.summary)
    console.print(table)
    console.print("\nstudent: offline methods never look at it, online ones play against it.", highlight=False)


def show_objectives(console: Console) -> None:
    """One line an objective of a student, and one a plan of such."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("objective", "paper", "needs", "what the student learns"):
        table.add_column(heading, no_wrap=heading == "objective", overflow="fold")
    for row in OBJECTIVES.values():
        table.add_row(row.name, row.paper, ", ".join(OBJECTIVE_NEEDS[need] for need in row.needs), row.summary)
    console.print(table)
    console.print("\nA stage of a recipe's student names one or several: objectives: [{name: kd, temperature: 4}].", highlight=False)
    plans = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("plan", "papers", "what its stages are"):
        plans.add_column(heading, no_wrap=heading == "plan", overflow="fold")
    for plan in map(find_plan, plan_names()):
        plans.add_row(plan.name, plan.papers, plan.summary)
    console.print("\nPlans of stages that have names; how long they are, the recipe says:\n", highlight=False)
    console.print(plans)
