"""What recipes of every kind begin with: what a reader wants to know, and the teacher that one was written for."""

from pydantic import Field

from distillery.config import Config


class About(Config):
    """What a reader wants to know before running a recipe; nothing in it changes a result.

    Attributes:
        published: the number to compare with, as text, empty where there is none.
        weights: where the loss weights come from, in words.
        images: images that the student is trained on.
        student_steps: optimiser steps of the student.
        minutes: measured time with its hardware, as text.
    """

    title: str = ""
    paper: str = ""
    table: str = ""
    dataset: str = ""
    teacher: str = ""
    student: str = ""
    published: str = ""
    weights: str = ""
    images: int = Field(default=0, ge=0)
    student_steps: int = Field(default=0, ge=0)
    minutes: str = ""


class Expects(Config):
    """The teacher a recipe was written for; 0 means any."""

    channels: int = Field(default=0, ge=0)
    height: int = Field(default=0, ge=0)
    width: int = Field(default=0, ge=0)
    classes: int = Field(default=0, ge=0)
