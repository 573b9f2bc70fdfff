"""What was found as one HTML page that needs nothing else: the pictures are in it."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

from vistill.files import write_atomic

_HERE = Path(__file__).parent


class Card(NamedTuple):
    """One that was found.

    Attributes:
        name: of the file.
        span: the part of it, or nothing.
        score: cosine to the query.
        picture: JPEG; None where the file cannot be read any more.
    """

    name: str
    span: str
    score: float
    picture: bytes | None


def write_page(
    file: Path, title: str, note: str, cards: Sequence[Card], query: bytes | None = None
) -> None:
    """Write the page.

    Args:
        file: to write.
        title: what was asked.
        note: a line below it.
        cards: the best first.
        query: a JPEG of what was asked, if it was a picture or clip.
    """
    page, hit = (
        Template((_HERE / name).read_text(encoding="utf-8")) for name in ("page.html", "hit.html")
    )
    listed = [
        hit.substitute(
            rank=rank,
            name=_shown(card.name),
            span=_shown(card.span),
            score=f"{card.score:.3f}",
            picture=_image(card.picture, card.name)
            if card.picture
            else '<span class="missing">not there any more</span>',
        )
        for rank, card in enumerate(cards, start=1)
    ]
    asked = "" if query is None else _image(query, title).replace("<img", '<img class="query"')
    text = page.substitute(
        title=_shown(title), note=_shown(note), query=asked, hits="\n".join(listed)
    )
    write_atomic(file, text)


def _image(jpeg: bytes, name: str) -> str:
    data = base64.b64encode(jpeg).decode()
    return f'<img alt="{_shown(name)}" src="data:image/jpeg;base64,{data}">'


def _shown(text: str) -> str:
    """Text for a page; names that are no UTF-8 lose what cannot be shown."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))
