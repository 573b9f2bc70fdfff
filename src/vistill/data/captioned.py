"""Samples for training on texts: every file once with all that is said of it, or once for each
question about it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vistill.data.archive import TarSource
from vistill.data.captions import Captions
from vistill.data.folder import FolderSource
from vistill.data.names import PackedNames
from vistill.data.shard_captions import shard_captions
from vistill.data.source import Source, Stretch, Unlabelled
from vistill.data.stamps import Stamps
from vistill.data.video.proof import Proof
from vistill.errors import UserError
from vistill.text_cleanup import clean


class DescribedSource:
    """Some samples of a source, with texts (a `Source`) and without labels.

    Args:
        source: of all samples.
        found: position in it and texts, of each.
    """

    def __init__(self, source: Source, found: Iterable[tuple[int, Sequence[str]]]) -> None:
        found = list(found)
        self.source, self.name, self.media = source, source.name, source.media
        self._rows = np.array([row for row, _ in found])
        self.captions: Sequence[Sequence[str]] | None = Captions(texts for _, texts in found)
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None
        self.unlabelled: Unlabelled | None = Unlabelled("captions are no classes", meant=False)
        self.decoding = source.decoding
        self.splits: Sequence[str | None] | None = None
        self.notes = list(source.notes)

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


class CaptionedSource(DescribedSource):
    """The samples of a source that have captions; a file, or part of a video, that is listed once
    for each of its captions is one sample.

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
        super().__init__(source, found.values())
        names = dict.fromkeys(source.sample_name(i) for i in range(len(source)))
        bare = [name for name in names if name not in found]
        if bare:
            self.notes.append(
                f"{len(bare)} of {len(names)} {self.media.noun}s have no caption and "
                f"are left out, such as '{bare[0]}'"
            )


class AskedSource(DescribedSource):
    """The rows of a list with a question and its answer, which are the two captions of a sample; a
    file is as many samples as there are questions about it.

    Attributes:
        answers: all that differ when cleaned, the commonest first.

    Raises:
        UserError: there are none.
    """

    def __init__(self, source: Source) -> None:
        asked = [
            (i, (texts[0], answer))
            for i, texts in enumerate(source.captions or ())
            if len(texts) == 1 and (answer := _answer(source, i)) is not None
        ]
        if not asked:
            raise UserError(
                f"'{source.name}' asks nothing: give a list with columns media, question and "
                "answer (.csv, .tsv, .json, .jsonl, .parquet)"
            )
        super().__init__(source, asked)
        without = len(source) - len(asked)
        if without:
            self.notes.append(
                f"{without} of {len(source)} rows have no question with an answer and are left out"
            )
        counts = Counter(clean(answer) for _, (_, answer) in asked)
        self.answers = tuple(answer for answer, _ in counts.most_common())

    def rows_of_files(self) -> dict[str, list[int]]:
        """The samples that show each file, or part of a video."""
        found: dict[str, list[int]] = {}
        for i in range(len(self)):
            found.setdefault(self.sample_name(i), []).append(i)
        return found


def _answer(source: Source, row: int) -> str | None:
    if source.labels is None or source.classes is None or source.labels[row] < 0:
        return None
    return source.classes[int(source.labels[row])]


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
