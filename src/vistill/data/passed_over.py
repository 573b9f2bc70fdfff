"""Files that lie among pictures or clips and are none: what they are, and what can be done."""

from collections import Counter

from vistill.data.frame_folders import frame_number
from vistill.data.source import CLIPS, HEIF_SUFFIXES, PICTURES, Media, suffix
from vistill.errors import UserError

SHOWN = 5
RAW_SUFFIXES = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}
FOREIGN_SUFFIXES = RAW_SUFFIXES | {".jxl", ".psd", ".exr", ".hdr", ".svg", ".eps", ".pdf", ".dcm",
                                   ".nii", ".npy", ".npz", ".mat", ".raw"}  # fmt: skip
"""Endings of pictures for which there is no decoder here."""
BARE_SUFFIXES = {".h264", ".264", ".h265", ".265", ".hevc", ".m2v", ".m1v", ".m4e", ".ivf",
                       ".obu", ".y4m", ".yuv"}  # fmt: skip
"""Endings of bare video streams, whose frames have no times."""
ARCHIVE_SUFFIXES = {".tar", ".tgz", ".zip", ".parquet"}
NO_ENDING = "without an ending"


class PassedOver:
    """Files that are no samples, counted by the endings of their names.

    Attributes:
        media: what was looked for.
        archives: names of `.tar`, `.zip` and `.parquet` files among them.
        frame_folders: of clips, the folders that hold numbered pictures, and how many.
    """

    def __init__(self, media: Media) -> None:
        self.media = media
        self.archives: list[str] = []
        self.frame_folders: Counter[str] = Counter()
        self._endings: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._odd: dict[str, list[str]] = {}

    def add(self, name: str) -> None:
        """A file whose name does not end like one of a sample."""
        self.count(suffix(name) or NO_ENDING, name)
        if self.media is CLIPS:
            folder, _, file = name.rpartition("/")
            if frame_number(file) is not None:
                self.frame_folders[folder] += 1

    def count(self, ending: str, example: str, files: int = 1) -> None:
        """Files of one ending, with the name of one."""
        self._endings[ending] += files
        self._examples.setdefault(ending, example)
        if ending in ARCHIVE_SUFFIXES or ".tar." in example.lower():
            self.archives.append(example)

    def add_odd(self, name: str, what: str) -> None:
        """Something that is no regular file, such as a named pipe."""
        self._odd.setdefault(what, []).append(name)

    def notes(self) -> list[str]:
        """One line on the files, and one for every kind of what are no regular files."""
        lines = []
        if self._endings:
            lines.append(f"passed over {self._listed()}{self._hint()}")
        for what, names in self._odd.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            many = f"{len(names)} {what}s" if len(names) > 1 else f"a {what}"
            lines.append(f"passed over {many}: {', '.join(names[:SHOWN])}{more}")
        return lines

    def error(self, where: str) -> UserError:
        """The error for a place that holds nothing else."""
        held = "; it is empty"
        if self._endings:
            held = f"; it holds {self._listed()}{self._hint()}"
        elif self._odd:
            held = "".join(f"; {note}" for note in self.notes())
        return UserError(
            f"no {self.media.noun} in '{where}' (looked for {self.media.looked_for}){held}"
        )

    def _listed(self) -> str:
        """`53 files: 50 .heic ('a/1.heic' ...), 3 .md (...)`, the most frequent endings first."""
        total = self._endings.total()
        common = sorted(self._endings.items(), key=lambda item: (-item[1], item[0]))
        shown = [
            f"{count} {ending} ('{self._examples[ending]}'{', …' * (count > 1)})"
            for ending, count in common[:SHOWN]
        ]
        rest = total - sum(count for _, count in common[:SHOWN])
        others = [f"{rest} others"] if rest else []
        return f"{total} other file{'s' * (total > 1)}: {', '.join([*shown, *others])}"

    def _hint(self) -> str:
        """What would make samples of them."""
        endings, hints = set(self._endings), []
        if self.media.noun == PICTURES.noun:
            if heif := sorted(endings & (HEIF_SUFFIXES - self.media.suffixes)):
                hints.append(f"for {', '.join(heif)} install a decoder: pip install pillow-heif")
            if foreign := sorted(endings & FOREIGN_SUFFIXES):
                hints.append(f"to use {', '.join(foreign)} convert them to .jpg, .png or .tif")
        elif bare := sorted(endings & BARE_SUFFIXES):
            hints.append(f"to use {', '.join(bare)} put them into a container such as .mkv")
        for kind in (PICTURES, CLIPS):
            if kind.noun != self.media.noun and endings & (kind.suffixes - self.media.suffixes):
                hints.append(kind.hint)
        return "".join(f"; {hint}" for hint in hints)
