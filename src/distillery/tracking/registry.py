"""The model registry: a student as a version, and the gate between challenger and champion; imports no mlflow."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distillery.tracking.flatten import flatten
from distillery.tracking.protocol import PREFIX, Candidate, Registered, RegistrationConfig
from distillery.tracking.runs import ActiveRun

STUDENT = PREFIX + "student_sha256"
METRIC = PREFIX + "metric"
VALUE = PREFIX + "value"
SOURCE = PREFIX + "source"
MODEL_ID = PREFIX + "model_id"

LogModel = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Keeps the student's files as a logged model with these tags, and gives the version's further tags, `MODEL_ID` among them."""


@dataclass(frozen=True)
class Champion:
    """The standing champion: its version, and the number it was registered with; `metric` is empty where it has none."""

    version: str
    metric: str
    value: float
    source: str = ""


def gate(config: RegistrationConfig, candidate: Candidate, champion: Champion | None) -> tuple[bool, str]:
    """Whether a candidate becomes champion, and why, in a sentence.

    Args:
        config: `champion` is if_better, never or always.
        candidate: its metric, value and source, higher is better.
        champion: the standing one, None where there is none.
    """
    shown = f"{candidate.metric} {candidate.value:g}"
    if config.champion == "never":
        return False, "The recipe never moves the alias champion."
    if not math.isfinite(candidate.value):
        return False, f"{shown} is not a number that could win."
    if config.champion == "always":
        return True, "The recipe always moves the alias champion."
    if champion is None:
        return True, "There was no champion."
    if (champion.metric, champion.source) != (candidate.metric, candidate.source):
        theirs, ours = (f"{judged.metric or 'no metric'} on {judged.source or 'unnamed data'}" for judged in (champion, candidate))
        return False, f"The champion, version {champion.version}, was judged by {theirs}, which cannot be compared with {ours}."
    if candidate.value > champion.value:
        return True, f"{shown} beats {champion.value:g} of version {champion.version}."
    return False, f"{shown} does not beat {champion.value:g} of version {champion.version}."


def register_version(link: ActiveRun, log_model: LogModel, config: RegistrationConfig, candidate: Candidate) -> Registered:
    """Make a student a version of the registered model, or find the version that it is already, and set the aliases.

    The registered model is made after the files are kept: a failure leaves none without a version.

    Args:
        link: the register step's run.
        log_model: called only where the version is new.
        config: the model's name and the gate.
        candidate: the student's number, and tags among which `student_sha256`.
    """
    client, name = link.client, config.model_name
    standing = client.search_registered_models(f"name = '{name}'")
    champion = _champion(client, name, standing[0].aliases.get("champion")) if standing else None
    judged = {METRIC: candidate.metric, VALUE: repr(candidate.value), SOURCE: candidate.source}
    tags = {**flatten(candidate.tags), **judged, PREFIX + "run_id": link.run_id}
    version = _known_version(client, name, tags)
    if not version:
        tags |= log_model(tags)
        if not standing:
            _make_model(client, name)
        version = _new_version(link, name, candidate, tags)
        version = _first_of(client, name, version, tags)
    client.set_registered_model_alias(name, "challenger", version)
    previous = champion.version if champion else ""
    wins, reason = gate(config, candidate, champion)
    if version == previous:
        wins, reason = True, "This student is the champion already."
    elif wins:
        client.set_registered_model_alias(name, "champion", version)
    held = ("challenger", "champion") if wins else ("challenger",)
    return Registered(
        model_name=name,
        model_version=version,
        aliases=held,
        metric=candidate.metric,
        value=candidate.value,
        previous_champion=previous,
        reason=reason,
    )


def _champion(client: Any, name: str, version: object) -> Champion | None:
    if version is None:
        return None
    tags = client.get_model_version(name, str(version)).tags
    try:
        value = float(tags.get(VALUE, "nan"))
    except ValueError:
        value = math.nan
    return Champion(str(version), tags.get(METRIC, "") if math.isfinite(value) else "", value, tags.get(SOURCE, ""))


def _known_version(client: Any, name: str, tags: dict[str, str]) -> str:
    """The version that this very student got with this very number: a step that runs again registers nothing twice."""
    query = f"name = '{name}' and tags.`{STUDENT}` = '{tags[STUDENT]}'"
    judged = (METRIC, VALUE, SOURCE)
    same = [found for found in client.search_model_versions(query) if all(found.tags.get(name) == tags[name] for name in judged)]
    return str(min(int(found.version) for found in same)) if same else ""


def _first_of(client: Any, name: str, version: str, tags: dict[str, str]) -> str:
    """The version that stands: of two workers who made one of the same student, neither seeing the other's, the lower number."""
    first = _known_version(client, name, tags)
    if first != version:
        client.delete_model_version(name, version)
    return first


def _make_model(client: Any, name: str) -> None:
    try:
        client.create_registered_model(name, description="Students distilled without data by Distillery.")
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":  # by another worker, a moment ago
            raise


def _new_version(link: ActiveRun, name: str, candidate: Candidate, tags: dict[str, str]) -> str:
    client, model_id = link.client, tags[MODEL_ID]
    if math.isfinite(candidate.value):
        client.log_metric(link.run_id, candidate.metric, candidate.value, model_id=model_id)
    version = client.create_model_version(
        name, source=f"models:/{model_id}", run_id=link.run_id, tags=tags, description=candidate.description, model_id=model_id
    )
    return str(version.version)
