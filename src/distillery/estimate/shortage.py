"""What a run would need more of than there is, told before it is begun."""

from pathlib import Path

from distillery.estimate.estimate import Estimate
from distillery.reporting.words import size
from distillery.storage import Store
from distillery.storage.local import free_space


def shortages(found: Estimate, store: Store, workdir: Path) -> list[str]:
    """A sentence for each of memory, store and workspace that the estimate exceeds; others may take and free some until then.

    Args:
        found: what the run would cost.
        store: of the run; of a remote one nobody knows what is free.
        workdir: its workspace.
    """
    told = []
    if found.memory > found.capacity:
        told.append(
            f"The largest step would take about {size(found.memory)} of memory, and there are {size(found.capacity)} here: lower batches, "
            "widths or the number of images, or run it on a larger machine."
        )
    places = ("store", store.uri, found.store_peak, store.free_space()), ("workspace", workdir, found.workspace, free_space(workdir))
    for name, place, needed, free in places:
        if free is not None and needed > free:
            told.append(
                f"The {name} would hold about {size(needed)}, and {size(free)} are free at {str(place)!r}: free some, choose another "
                f"{name}, or make fewer images."
            )
    return told
