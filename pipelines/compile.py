"""Compile the pipelines to YAML: equal sources give equal bytes, choices become drop-downs, and the lint has the last word."""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from distillery.errors import StoreError
from distillery_kfp.pipelines.deployment import Deployment
from distillery_kfp.pipelines.form import ALL, literals, summaries
from distillery_kfp.pipelines.lint import lint

Document = dict[str, Any]


def compile_documents(pipeline: str) -> list[Document]:
    """The pipeline as kfp's two documents, its specification and its Kubernetes settings, with the choices put in.

    Args:
        pipeline: a name of `form.ALL`.
    """
    return list(yaml.safe_load_all(_compile(pipeline)))


def compile_text(pipeline: str, deployment: Deployment | None = None) -> str:
    """The file as it is committed: kfp's heading comments, then both documents.

    Args:
        pipeline: a name of `form.ALL`.
        deployment: where it finds its images; None for what is committed.

    Raises:
        AssertionError: the result breaks a rule of `lint`, which is our own bug.
    """
    text = _compile(pipeline, deployment)
    broken = lint(pipeline, text, deployment)
    assert not broken, f"{pipeline} breaks: {'; '.join(broken)}"
    return text


def compile_all(folder: Path, deployment: Deployment | None = None) -> list[Path]:
    """Write `<pipeline>.yaml` of every pipeline into `folder`, and return the paths.

    Args:
        folder: made where it is not there.
        deployment: as in `compile_text`.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pipeline, text in {pipeline: compile_text(pipeline, deployment) for pipeline in ALL}.items():
            (folder / f"{pipeline}.yaml").write_text(text)
    except OSError as error:
        raise StoreError(f"--out {str(folder)!r} cannot be written ({error.strerror}): choose another folder.") from None
    return [folder / f"{pipeline}.yaml" for pipeline in ALL]


def _compile(pipeline: str, deployment: Deployment | None = None) -> str:
    from kfp import compiler

    function = getattr(import_module(f"distillery_kfp.pipelines.{pipeline}"), pipeline)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(function, str(path))
        text = path.read_text()
    documents = list(yaml.safe_load_all(text))
    place = deployment or Deployment()
    _describe(documents[0], summaries(pipeline), {**literals(pipeline), **place.choices})
    place.apply(*documents)
    heading = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    for name, (first, *_) in place.choices.items():
        documents[0]["root"]["inputDefinitions"]["parameters"][name]["defaultValue"] = first
        heading = re.sub(rf"(#    {name}: str \[Default: ')[^']*", rf"\g<1>{first}", heading)
    return heading + yaml.safe_dump_all(documents, sort_keys=True, width=140)


def _describe(document: Document, texts: Mapping[str, str], choices: Mapping[str, tuple[str, ...]]) -> None:
    parameters = document["root"]["inputDefinitions"]["parameters"]
    for name, text in texts.items():
        parameters[name]["description"] = text
    # kfp 2.17 refuses typing.Literal in a signature, but its backend and run form honour the field
    for name, values in choices.items():
        parameters[name]["literals"] = list(values)
