"""The page is whole in itself, and names cannot become markup."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from vistill.search.page import Card, write_page


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "JPEG")
    return content.getvalue()


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page(tmp_path: Path) -> None:
    odd = '<script>alert("x")</script>&\' $name\udcff.jpg'
    cards = [Card(odd, "1 s to 2 s", 0.98765, jpeg()), Card("gone.jpg", "", 0.5, None)]
    write_page(tmp_path / "p.html", f'"{odd}"', "a note", cards, jpeg())
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert "script" not in {tag for tag, _ in page.tags}
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2
    for picture in pictures:
        assert str(picture["src"]).startswith("data:image/jpeg;base64,")
    assert pictures[1]["alt"] == odd.replace("\udcff", "?")
    for told in ("1 s to 2 s", "0.988", "not there any more", "gone.jpg", "a note"):
        assert told in page.text
    # Nothing is fetched, both colour schemes are there, and a telephone shows it at its width.
    assert not re.search(r"https?:|@import|url\(", text)
    assert not {key for _, attributes in page.tags for key in attributes} & {"href", "srcset"}
    assert "color-scheme: light dark" in text
    assert "width=device-width" in text
