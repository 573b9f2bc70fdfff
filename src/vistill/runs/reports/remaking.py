"""The page of runs that are there already: of one, or of several laid over each other."""

from collections.abc import Sequence
from pathlib import Path

from vistill.config.loading import load_config, said_settings
from vistill.errors import Failure, UserError, first_line
from vistill.runs.adapting import fit_to_place
from vistill.runs.comparing_cells import quietly
from vistill.runs.places import require_writable
from vistill.runs.pretraining import Prepared, prepare
from vistill.runs.reports.records import Record, read_records
from vistill.runs.reports.run_page import (
    BESIDE,
    PAGE,
    SHOWN,
    write_page_of_several,
    write_run_page,
)
from vistill.runs.results import say_notes


def remake(places: Sequence[str], out: Path | None) -> Path:
    """Write the page of runs; of one, or of a chain, into its folder unless told otherwise.

    Raises:
        UserError: a folder is no run, or nothing says where the page of several goes.
    """
    records = read_records(places)
    if out is not None:
        if out.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"--out {out} is no HTML file; name one, such as {out}.html")
        require_writable(out)
    if len(places) == 1 and out is None:
        out = Path(places[0].removeprefix("run:")).expanduser() / PAGE
    if out is None:
        raise UserError("the page of several runs needs a place: give --out FILE.html")
    if len(records) > 1:
        return write_page_of_several(records, out)
    (record,) = records
    kept = (record.folder / BESIDE / SHOWN).is_file()
    prepared = None if kept else _prepared(record)
    try:
        return write_run_page(record.folder, prepared, out)
    finally:
        if prepared is not None:
            prepared.give_back()


def _prepared(record: Record) -> Prepared | None:
    """The run as it was before its first step; None where that cannot be had any more."""
    config = record.folder / "config.yaml"
    try:
        with quietly(None):
            loaded = load_config(str(config), [])
            said = said_settings(str(config), [])
            adapted, reading = fit_to_place(loaded, said, record.folder, overwrite=False)
            prepared = prepare(adapted, reading, out=record.folder)
        gone = [one.cache.folder for one in prepared.planned if not one.cache.folder.is_dir()]
        if gone:
            prepared.give_back()
            raise UserError(f"its cache {gone[0]} is gone")
        return prepared
    except (UserError, Failure) as error:
        say_notes(str(record.folder), [f"its inputs cannot be shown: {first_line(error)}"])
        return None
