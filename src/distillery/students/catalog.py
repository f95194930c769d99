"""The table of student objectives: plain data, so that listing them imports no torch."""

from dataclasses import dataclass
from typing import Literal

from distillery.catalog import CatalogRow
from distillery.config import nearest
from distillery.errors import ConfigError

Need = Literal["labels", "features", "teacher"]


NEEDS: dict[Need, str] = {"labels": "true labels", "features": "layers of both networks", "teacher": "the teacher"}
"""What each need asks for, in words."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveRow(CatalogRow[Need]):
    """One row.

    Its needs: `labels` are true ones, which synthetic images do not have; `features` are those of layers within both networks; `teacher` is
    a pass of the teacher, which a stage none of whose objectives needs one does without.
    """


OBJECTIVES: dict[str, ObjectiveRow] = {
    row.name: row
    for row in (
        ObjectiveRow(
            name="kd",
            title="KD",
            paper="arXiv:1503.02531 (2015)",
            needs={"teacher": ""},
            summary="The teacher's softened probabilities, and cross-entropy on labels where hard is above 0.",
            implementation="distillery.students.kd:KD",
        ),
        ObjectiveRow(
            name="fsp",
            title="FSP",
            paper="CVPR 2017 (Yim et al.)",
            needs={"features": "", "teacher": ""},
            summary="How the teacher's features change from one stage to the next, as matrices between layers; a first stage by itself.",
            implementation="distillery.students.fsp:FSP",
        ),
        ObjectiveRow(
            name="fitnets",
            title="FitNets",
            paper="arXiv:1412.6550 (ICLR 2015)",
            needs={"features": "", "teacher": ""},
            summary="A layer of the teacher as a hint, through a regressor; a first stage by itself, or beside kd.",
            implementation="distillery.students.fitnets:FitNets",
        ),
        ObjectiveRow(
            name="attention",
            title="Attention transfer",
            paper="arXiv:1612.03928 (ICLR 2017)",
            needs={"features": "", "teacher": ""},
            summary="Where the teacher's stages look; beside kd or cross_entropy.",
            implementation="distillery.students.attention:Attention",
        ),
        ObjectiveRow(
            name="cross_entropy",
            title="Plain training",
            paper="none",
            needs={"labels": ""},
            summary="True labels of real images, without a teacher.",
            implementation="distillery.students.cross_entropy:CrossEntropy",
        ),
    )
}


def find_objective(name: str) -> ObjectiveRow:
    """The row called `name`.

    Raises:
        ConfigError: no such objective; names the nearest one.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"There is no student objective {name!r}; known: {', '.join(OBJECTIVES)}{nearest(name, list(OBJECTIVES)) or '.'}")
    return OBJECTIVES[name]
