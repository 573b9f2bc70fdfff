"""What the user sees while a run goes on: a live line in a terminal, plain lines elsewhere."""

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_PLAIN_SECONDS = 15.0


def duration(seconds: float) -> str:
    """`1:02:03`, with days in front where there are any."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02}:{second:02}"
    return f"{days}d {clock}" if days else clock


def opening_lines(frozen: list[str], step: int, steps: int) -> list[str]:
    """What is told before the first step: parameters that do not learn, and where a run goes on."""
    lines = []
    if frozen:
        few = ", ".join(frozen[:3]) + (", …" if len(frozen) > 3 else "")
        lines.append(f"{len(frozen)} parameters get no gradient and stay as they are: {few}")
    if step:
        lines.append(f"resuming after step {step} of {steps}")
    return lines


def status(
    values: dict[str, float], eta: float, broken: str, unit: str = "img", coming: str = ""
) -> str:
    """One line: losses, rates (`unit` per second), waiting, memory, time to go, what is to be
    expected at the end, what is broken."""
    terms = ", ".join(
        f"{name.removeprefix('loss/')} {value:.4g}"
        for name, value in values.items()
        if name.startswith("loss/")
    )
    parts = [
        f"loss {values['loss']:.4g}" + (f" ({terms})" if terms else ""),
        f"lr {values['lr']:.2e}",
        f"{values['images_per_second']:.0f} {unit}/s",
        f"data wait {values['data_wait']:.0%}",
        f"mem {values['memory_gb']:.1f} GB",
        f"ETA {duration(eta)}",
    ]
    return " · ".join([*parts, *filter(None, (coming, broken))])


def tell(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


def _bar() -> "Progress":
    # Imported here: it takes a third of a second, and only a terminal needs it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(stderr=True, highlight=False, soft_wrap=True),
    )


class Meter:
    """Progress on standard error: a bar in a terminal, else a line every quarter of a minute.

    Args:
        done, total: how many of all there are.
        noun: what is counted, in a line.
        shown: whether to show anything.
    """

    def __init__(self, done: int, total: int, noun: str, *, shown: bool = True) -> None:
        self._shown, self._total, self._noun = shown, total, noun
        self._bar: Progress | None = None
        self._last = float("-inf")
        if shown and sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task(noun, total=total, completed=done, status="starting")
            self._bar.start()

    def update(self, done: int, text: str, place: str | None = None) -> None:
        """Show `text` when so many are done, at a `place` that is told before them."""
        if self._bar is not None:
            place = place or self._noun
            self._bar.update(self._task, completed=done, description=place, status=text)
        elif self._shown and (
            time.monotonic() - self._last > _PLAIN_SECONDS or done == self._total
        ):
            self._last = time.monotonic()
            begin = f"{place} · " if place else ""
            line = f"{begin}{self._noun} {done}/{self._total} · {text}"
            tell(line)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        elif self._shown:
            tell(text)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()
