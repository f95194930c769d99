"""`distillery extract-statistics`: a teacher's moments as one file, on the side of whoever owns its data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from distillery.environment import environment
from distillery_kfp.pipelines.cli.sets import SET_HELP
from distillery_kfp.pipelines.cli.stores import console


def extract_statistics(
    teacher: Annotated[str, typer.Argument(help="The teacher's folder, or its URI in a store.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    data: Annotated[
        str,
        typer.Option(
            metavar="LABELLED",
            help="Measure every class on labelled images of the teacher's owner (npz, npy, idx or CIFAR files, or a folder a class); "
            "without them the moments are those of the teacher's own buffers.",
        ),
    ] = "",
    set_uri: Annotated[str, typer.Option(metavar="SET", help=f"Measure every class on a synthetic set instead. {SET_HELP}")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto is cuda where there is one.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 is torch's choice.")] = 0,
    workdir: Annotated[str, typer.Option(help="Folder for checkpoints, logs and locks  \\[default: one that is removed again].")] = "",
) -> None:
    """Write the BatchNorm moments of a teacher: its own, or measured for each class on labelled images.

    The images stay where they are: the file holds a mean and a variance for each channel, and for each class how many images it had.
    Nothing else is left.
    """
    from distillery.provenance import sha256_file
    from distillery_kfp.pipelines.runner.local import check_writable

    out = out.expanduser().absolute()
    check_writable(out.parent, "--out")
    check_writable(Path(workdir).expanduser().absolute() if workdir else None, "--workdir")
    chosen = {"DISTILLERY_DEVICE": device, "DISTILLERY_THREADS": str(threads or ""), "DISTILLERY_FOLDER_STORE": "1"}
    with _workspace(workdir) as folder, environment({**chosen, "DISTILLERY_WORKDIR": str(folder)}):
        numbers = _measure(teacher, data, set_uri, out) if data or set_uri else _read(teacher, out)
    console().print(f"{out}: {'  '.join(f'{name} {value:,.0f}' for name, value in numbers.items())}", markup=False, soft_wrap=True)
    console().print(f"sha256 {sha256_file(out)}", soft_wrap=True)


@contextmanager
def _workspace(workdir: str) -> Iterator[Path]:
    """The folder that is named, or a passing one: who gives away the file of moments keeps nothing else of the work on the images."""
    if workdir:
        yield Path(workdir).expanduser().absolute()
        return
    with TemporaryDirectory(prefix="distillery-") as folder:
        yield Path(folder)


def _read(teacher: str, out: Path) -> dict[str, float]:
    """The moments of the teacher's own buffers."""
    from distillery.recipes.sections import StatisticsSection, common_fields
    from distillery.step_table import StatisticsFile
    from distillery.steps.extract_statistics import Inputs, Outputs, run
    from distillery.workbench.planning import verify_teacher

    found = verify_teacher(teacher, "")
    section = StatisticsSection.parse(common_fields(0, found.sha256, "float32", found.info.architecture), "statistics")
    return run(section.to_json(), Inputs(teacher_uri=teacher), Outputs(statistics=StatisticsFile(out)))


def _measure(teacher: str, data: str, set_uri: str, out: Path) -> dict[str, float]:
    """Those of each class: the last step of the pipeline that takes images which are there, by a reference to them."""
    from distillery.errors import ConfigError
    from distillery.provenance import Provenance, code_version
    from distillery.recipes.sections import ClassStatisticsSection, common_fields
    from distillery.step_table import ClassStatisticsFile, SetFolder
    from distillery.steps.extract_class_statistics import Inputs, Outputs, run
    from distillery.workbench.class_images import open_measured
    from distillery.workbench.given import absolute, refer_to
    from distillery.workbench.planning import verify_teacher

    if data and set_uri:
        raise ConfigError(f"Moments of classes are measured on one source, not on {data!r} and {set_uri!r}: give one of them.")
    bundle = verify_teacher(teacher, "")
    found = open_measured(absolute(data or set_uri), bundle)
    if set_uri and not found.synthetic:
        raise ConfigError(f"--set-uri {set_uri!r} is no set: give labelled images as --data.")
    section = ClassStatisticsSection.parse(common_fields(0, bundle.sha256, "float32", bundle.info.architecture), "class_statistics")
    made = Provenance(inputs={"teacher": bundle.sha256, **found.inputs}, code_version=code_version())
    with TemporaryDirectory() as reference:
        refer_to(found, bundle.info, Path(reference), made)
        inputs = Inputs(teacher_uri=teacher, set=SetFolder(Path(reference)))
        return run(section.to_json(), inputs, Outputs(class_statistics=ClassStatisticsFile(out)))
