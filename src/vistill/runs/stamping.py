"""Pictures and clips that were replaced under their old names: told on a resume."""

from pathlib import Path

from vistill.data import Source
from vistill.data.stamps import Stamps, changed, names, read_stamps
from vistill.errors import UserError


def compare_stamps(out: Path, source: Source, stamps: Stamps) -> list[str]:
    """Compare what a run in `out` began with, where that is known, with what is there now.

    Returns:
        A sentence on samples of which only the time of change differs.

    Raises:
        UserError: samples have another content for sure.
    """
    before = read_stamps(out, len(source))
    if before is None:
        return []
    surely, perhaps = changed(before, stamps)
    noun = source.media.noun
    if len(surely):
        raise UserError(
            f"{out} holds a run of other {noun}s: {len(surely)} of {len(source)} have been "
            f"replaced under their names ({names(source, surely)}); choose another output folder, "
            "or --overwrite to move that run aside"
        )
    if len(perhaps):
        return [
            f"{len(perhaps)} of {len(source)} {noun}s are as large as when the run in {out} began, "
            f"but were written at another time ({names(source, perhaps)}); they are taken for "
            "copies of the same"
        ]
    return []
