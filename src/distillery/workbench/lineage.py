"""What each step of a run wrote, by hash and place: how an auditor finds the bytes that a bundle only names.

No path enters a bundle or a set, so the way to them is kept beside the run, in `runs/<id>/steps/<step>-<key>.json`: one object a step,
because several steps may end at once and a store locks nothing.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from distillery.config import canonical_json
from distillery.documents import Fields, Format
from distillery.provenance import Provenance, sha256_bytes
from distillery.storage import Store

FORMAT = Format("distillery-step", 2, "run its step again")
LAYOUTS = (1, 2)
"""Ways in which a step's kept outputs lie; a record of the first version names none, and has the first."""
FILE = "file"
"""How an output that is a file is called in the folder that keeps it."""
_DOCUMENTS = ("", "bundle.json", "synthesizer.json", "manifest.json", "images.json")


@dataclass(frozen=True)
class StepRecord:
    """What one step of a run wrote.

    Attributes:
        step: its name.
        key: names its work; its kept outputs lie below `checkpoints/<step>/<key>` of the store.
        outputs: output -> file below it ("" where the output is a file) -> sha256.
        layout: of `LAYOUTS`, which says where kept outputs lie.
    """

    step: str
    key: str
    outputs: dict[str, dict[str, str]]
    layout: int = LAYOUTS[-1]

    @property
    def folder(self) -> str:
        """Where in the store the step kept everything."""
        return f"checkpoints/{self.step}/{self.key}"

    def place(self, output: str) -> str:
        """Where in the store the step kept an output, as a folder."""
        return f"{self.folder}/outputs/{output}" if self.layout == 1 else f"{self.folder}/{kept_in(output, self.outputs[output])}"

    def at(self, output: str, relative: str) -> str:
        """Where in the store the step kept a file of an output; `relative` is "" where the output is a file."""
        return f"{self.place(output)}/{relative or FILE}"

    def sha256(self, output: str) -> str:
        """The hash that names an output: its document's, or the file's own; "" where the step wrote no such output."""
        files = self.outputs.get(output, {})
        return next((files[name] for name in _DOCUMENTS if name in files), "")


class _Said(Fields):
    step: str
    key: str
    outputs: dict[str, dict[str, str]]
    layout: Literal[1, 2] = 1


def kept_in(output: str, files: Mapping[str, str]) -> str:
    """The folder in which a step keeps an output, below its own: called after all that is in it, so that no output is ever overwritten.

    Args:
        output: its name.
        files: file below it -> sha256.
    """
    return f"outputs/{output}/{sha256_bytes(canonical_json(dict(files)).encode())}"


def run_identity() -> str:
    """The run that this step belongs to, "" where no pipeline is around it."""
    return os.environ.get("KFP_RUN_ID", "")


def records_of(run: str) -> str:
    """The folder of a store that holds the records of a run's steps."""
    return f"runs/{run}/steps"


def student_of(sha256: str) -> str:
    """Where a store holds a student, by the hash of its bundle."""
    return f"students/{sha256}"


def set_of(key: str) -> str:
    """Where a store holds the set that was made under a step's key."""
    return f"sets/{key}"


def class_statistics_of(sha256: str) -> str:
    """Where a store holds moments of each class that were measured in it, by the hash of the file."""
    return f"statistics/{sha256}.safetensors"


def evaluation_of(run: str) -> str:
    """Where a store holds what a run's student reached."""
    return f"runs/{run}/evaluation.json"


def page_of(run: str) -> str:
    """Where a store holds the page that shows a run."""
    return f"runs/{run}/report.html"


def write_record(store: Store, run: str, record: StepRecord, provenance: Provenance) -> None:
    """Note a finished step beside its run's record."""
    store.write(f"{records_of(run)}/{record.step}-{record.key[:16]}.json", FORMAT.write(provenance, asdict(record)))


def read_records(store: Store, run: str) -> tuple[StepRecord, ...]:
    """All finished steps of a run.

    Raises:
        StoreError: a record is damaged.
        CheckpointMismatchError: one was written by a newer Distillery.
    """
    return tuple(parse_record(store.read(key), key) for key in store.list(records_of(run)))


def find_record(records: tuple[StepRecord, ...], output: str, sha256: str = "") -> StepRecord | None:
    """The step that wrote an output.

    Args:
        records: of one run.
        output: its name.
        sha256: the hash that names it; "" takes any.
    """
    written = (record for record in records if record.sha256(output))
    return next((record for record in written if sha256 in ("", record.sha256(output))), None)


def name_together(hashes: Iterable[str]) -> str:
    """One hash that names several outputs of a kind, such as the shares of an ensemble, in any order: of one its own; "" of none."""
    ordered = sorted(hashes)
    return sha256_bytes("\n".join(ordered).encode()) if len(ordered) > 1 else "".join(ordered)


def parse_record(data: bytes, where: str) -> StepRecord:
    """A record's file.

    Raises:
        StoreError: it is damaged.
        CheckpointMismatchError: written by a newer Distillery.
    """
    said = FORMAT.read(data, where).parse(_Said)
    return StepRecord(said.step, said.key, said.outputs, said.layout)
