"""Pictures and clips that cannot be read: one exception, and the account a run keeps of them."""

import errno
import logging
from collections.abc import Iterable
from typing import Any

from vistill.errors import Failure, UserError

LOG = logging.getLogger("vistill.data")
LISTED = 20


class BrokenImage(Exception):
    """This one sample cannot be used; the text says why."""


_MACHINE = {
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV,
    errno.ENXIO,
}  # fmt: skip
"""Errors of the machine: too many open files, a file server or a disk that is gone."""


def unreadable(path: str, error: Any) -> BrokenImage | Failure:
    """What a file that cannot be read comes to: a broken sample, but not where it is the machine
    that fails, which would be true of any file."""
    if error.errno in _MACHINE:
        return Failure(f"'{path}' cannot be read: {error.strerror}, which is no fault of the file")
    return BrokenImage(f"cannot be read: {error.strerror}")


class BrokenFiles:
    """Names and reasons of the samples that were skipped, and names of those that were mended.

    Each is logged once. Above `max_share` of `total` pictures the run is stopped.

    Args:
        total: samples of which some may be broken.
        max_share: share of them above which the run is stopped.
        told: names that were logged, to be shared by accounts of the same samples.
        noun: what a sample is.
    """

    def __init__(
        self, total: int, max_share: float, told: set[str] | None = None, noun: str = "picture"
    ) -> None:
        self.noun = noun
        self.told: set[str] = set() if told is None else told
        self.total = total
        self.max_share = max_share
        self.names: dict[str, str] = {}
        self.mended: set[str] = set()

    def add(self, found: Iterable[tuple[str, str]]) -> None:
        """Note `(name, reason)` pairs.

        Raises:
            UserError: with the list, when too many samples are broken.
        """
        for name, reason in found:
            if name not in self.names:
                self.names[name] = reason
            if name not in self.told:
                self.told.add(name)
                LOG.warning("skipped a broken %s: %s (%s)", self.noun, name, reason)
        if len(self.names) > self.max_share * self.total:
            share = len(self.names) / self.total
            raise UserError(
                f"{len(self.names)} of {self.total} {self.noun}s ({share:.1%}) cannot be read, "
                f"more than data.max_broken={self.max_share:g} allows: {self.listed()}"
            )

    def add_mended(self, names: Iterable[str]) -> None:
        """Note samples that are damaged and used all the same; the first of them are logged."""
        for name in names:
            if name in self.mended:
                continue
            self.mended.add(name)
            if len(self.mended) <= LISTED and name not in self.told:
                LOG.warning("used a %s without its end marker: %s", self.noun, name)
            elif len(self.mended) == LISTED + 1:
                LOG.warning("further %ss without end marker are used and not named", self.noun)
            self.told.add(name)

    def summary(self) -> str:
        """Both counts, for a line of progress; empty where nothing is wrong."""
        parts = [f"{len(self.names)} broken"] if self.names else []
        return " · ".join(parts + [f"{len(self.mended)} without end marker"] * bool(self.mended))

    def listed(self) -> str:
        """The names with their reasons on one line, the first few of many."""
        shown = [f"{name} ({reason})" for name, reason in list(self.names.items())[:LISTED]]
        more = len(self.names) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")

    def state(self) -> dict[str, str]:
        """What a checkpoint has to keep."""
        return dict(self.names)

    def load(self, state: dict[str, str]) -> None:
        """Continue the account of an earlier process, without logging its names again."""
        self.names = dict(state)
        self.told.update(state)
