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
        told, groups, bare = source.captions, dict[str, list[int]](), list[str]()
        if told is None and isinstance(source, FolderSource):
            told = Captions(_beside(source.place(i)) for i in range(len(source)))
        elif told is None and isinstance(source, TarSource):
            told = Captions(shard_captions(source))
        for i in range(len(source) if told is not None else 0):
            name = source.sample_name(i)
            if told is not None and any(text.strip() for text in told[i]):
                groups.setdefault(name, []).append(i)
            else:
                bare.append(name)
        if told is None or not groups:
            raise UserError(
                f"none of the {len(source)} {source.media.noun}s of '{source.name}' has a caption; "
                "give a list with columns media and caption (.csv, .tsv, .json, .jsonl, .parquet), "
                "or a .txt beside each file of a folder or shard"
            )
        self.source, self.name, self.media = source, source.name, source.media
        self._rows = np.array([rows[0] for rows in groups.values()])
        texts = ([t for i in rows for t in told[i] if t.strip()] for rows in groups.values())
        self.captions: Sequence[Sequence[str]] | None = Captions(texts)
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None
        self.unlabelled: Unlabelled | None = Unlabelled("captions are no classes", meant=False)
        self.decoding = source.decoding
        self.splits: Sequence[str | None] | None = None
        self.notes = list(source.notes)
        bare = [name for name in dict.fromkeys(bare) if name not in groups]
        if bare:
            self.notes.append(
                f"{len(bare)} of {len(bare) + len(groups)} {self.media.noun}s have no caption and "
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


def _beside(place: str) -> list[str]:
    text = Path(place).with_suffix(".txt")
    try:
        return text.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{text}' cannot be read as text: {error}") from error
