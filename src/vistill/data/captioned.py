"""Samples for training on their captions: every file once, with all that is said of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vistill.data.archive import TarSource
from vistill.data.captions import Captions
from vistill.data.folder import FolderSource
from vistill.data.shard_captions import shard_captions
from vistill.data.source import PackedNames, Source, Stretch, Unlabelled
from vistill.data.stamps import Stamps
from vistill.data.video.proof import Proof
from vistill.errors import UserError


class CaptionedSource:
    """The samples of a source that have captions (a `Source`); a file, or part of a video, that is
    listed once for each of its captions is one sample.

    Args:
        source: knows captions, or is a folder with `NAME.txt` beside its files, a caption a line,
            or `.tar` shards, see `vistill.data.shard_captions`.

    Raises:
        UserError: it knows none, or such a text cannot be read.
    """

    def __init__(self, source: Source) -> None:
        told = source.captions
        if told is None and isinstance(source, FolderSource):
            told = Captions(_beside(source.place(i)) for i in range(len(source)))
        elif told is None and isinstance(source, TarSource):
            told = Captions(shard_captions(source))
        found = by_file(source, told or ())
        if not found:
            raise UserError(
                f"none of the {len(source)} {source.media.noun}s of '{source.name}' has a caption; "
                "give a list with columns media and caption (.csv, .tsv, .json, .jsonl, .parquet), "
                "or a .txt beside each file of a folder or shard"
            )
        self.source, self.name, self.media = source, source.name, source.media
        self._rows = np.array([row for row, _ in found.values()])
        texts = (own for _, own in found.values())
        self.captions: Sequence[Sequence[str]] | None = Captions(texts)
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None
        self.unlabelled: Unlabelled | None = Unlabelled("captions are no classes", meant=False)
        self.decoding = source.decoding
        self.splits: Sequence[str | None] | None = None
        self.notes = list(source.notes)
        names = dict.fromkeys(source.sample_name(i) for i in range(len(source)))
        bare = [name for name in names if name not in found]
        if bare:
            self.notes.append(
                f"{len(bare)} of {len(names)} {self.media.noun}s have no caption and "
                f"are left out, such as '{bare[0]}'"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def _own(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return int(self._rows[i])

    def sample_name(self, i: int) -> str:
        """Name of sample `i`."""
        return self.source.sample_name(self._own(i))

    def read(self, i: int) -> bytes:
        """Encoded bytes of sample `i`."""
        return self.source.read(self._own(i))

    def place(self, i: int) -> str | bytes:
        """Path or bytes of sample `i`."""
        return self.source.place(self._own(i))

    def span(self, i: int) -> Stretch | None:
        """The part of video `i` that is the sample."""
        return self.source.span(self._own(i))

    def proof(self, i: int) -> Proof | None:
        """How the frames of video `i` are reached."""
        return self.source.proof(self._own(i))

    def fingerprint(self) -> str:
        """That of the source, and of all captions."""
        told = self.captions or ()
        texts = (text for several in told for text in several)
        counts = " ".join(str(len(several)) for several in told)
        said = PackedNames([*texts, counts]).digest()
        return f"{self.source.fingerprint()} captions {said}"

    def stamps(self) -> Stamps:
        """Those of its samples."""
        whole: Any = self.source.stamps()
        return whole[self._rows]


def by_file(source: Source, told: Sequence[Sequence[str]]) -> dict[str, tuple[int, list[str]]]:
    """The first row of every file (or part of a video) that has captions, and all of these.

    Args:
        source: may list a file several times, once for each of its captions.
        told: captions of every row; none at all where nobody knows any.
    """
    found: dict[str, tuple[int, list[str]]] = {}
    for i, texts in enumerate(told):
        own = [text for text in texts if text.strip()]
        if own:
            found.setdefault(source.sample_name(i), (i, []))[1].extend(own)
    return found


def _beside(place: str) -> list[str]:
    text = Path(place).with_suffix(".txt")
    try:
        return text.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{text}' cannot be read as text: {error}") from error
