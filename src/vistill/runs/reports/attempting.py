"""A page is written about work that is done and saved: what goes wrong with it is told, no more."""

from collections.abc import Callable

from vistill.errors import Failure, UserError, first_line
from vistill.runs.results import say_notes
from vistill.stopping import Interrupted


def attempt(place: object, write: Callable[[], object], again: str = "") -> None:
    """Write a page; where that fails, say so.

    Args:
        place: what the page is about.
        write: writes it.
        again: what would try again.
    """
    try:
        write()
    except Interrupted:
        raise
    except Exception as error:
        kind = "" if isinstance(error, UserError | Failure) else f"{type(error).__name__}: "
        later = f"; {again} tries again" if again else ""
        say_notes(str(place), [f"no report could be written: {kind}{first_line(error)}{later}"])
