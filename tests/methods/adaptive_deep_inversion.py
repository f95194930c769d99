"""Adaptive DeepInversion's smallest settings that leave nothing of it out: DeepInversion's, and a competition with the student."""

from methods.deep_inversion import KILLED as ALONE_KILLED
from methods.deep_inversion import TINY as ALONE

TINY = {**ALONE, "competition_weight": 1.0}
KILLED = {**ALONE_KILLED, "competition_weight": 1.0}
