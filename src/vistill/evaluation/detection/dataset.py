"""A folder of AVA's format: which lists and videos belong to it, checked before any work."""

from dataclasses import dataclass
from pathlib import Path

from vistill.config.detection import DetectionConfig
from vistill.data.source import CLIPS
from vistill.errors import UserError
from vistill.evaluation.detection.ava import (
    KeyFrame,
    read_actions,
    read_annotations,
    read_detections,
    read_excluded,
    without,
)
from vistill.files import near_path

_NAMED = 5


@dataclass(frozen=True)
class DetectionData:
    """Lists and files of an AVA-format folder.

    Attributes:
        train: key frames to learn from.
        truth: what people do on the key frames of the test.
        asked: whom the test asks about: detected people, or those of the truth.
        files: video file by name.
        names: of the actions that are tested, by number.
        num_actions: highest number of an action.
        detected: whether `asked` are detections.
        notes: sentences on what was left out.
    """

    train: list[KeyFrame]
    truth: list[KeyFrame]
    asked: list[KeyFrame]
    files: dict[str, Path]
    names: dict[int, str]
    num_actions: int
    detected: bool
    notes: tuple[str, ...] = ()


def open_detection(folder: Path, options: DetectionConfig) -> DetectionData:
    """Read the lists that `options` name in `folder`.

    Raises:
        UserError: something is missing or cannot be read; before any video is opened.
    """
    notes: list[str] = []
    train = read_annotations(_there(folder, options.train, "detection.train"), notes)
    truth = read_annotations(_there(folder, options.test, "detection.test"), notes)
    if options.excluded is not None:
        excluded = read_excluded(_there(folder, options.excluded, "detection.excluded"))
    else:
        excluded = set()
    truth = without(truth, excluded)
    asked = truth
    if options.detections is not None:
        path = _there(folder, options.detections, "detection.detections")
        asked = without(read_detections(path, options.least_score, notes), excluded)
    done = [{a for f in part for actions in f.actions for a in actions} for part in (train, truth)]
    if options.actions is None:
        names = {number: str(number) for number in sorted(done[1])}
    else:
        names = read_actions(_there(folder, options.actions, "detection.actions"))
    for part, name in ((train, options.train), (truth, options.test), (asked, options.detections)):
        if not part:
            raise UserError(f"{folder / str(name)} holds no key frame")
    if not done[1] & names.keys():
        raise UserError(f"none of the actions in {folder / options.test} is to be tested")
    files = _video_files(_there(folder, options.videos, "detection.videos"), notes)
    spoken = {frame.video for frame in [*train, *truth, *asked]}
    if lacking := sorted(spoken - files.keys()):
        if len(lacking) == len(spoken):
            raise UserError(
                f"there is no video file '{lacking[0]}' in {folder / options.videos}, nor any "
                "other of those that the lists speak of"
            )
        left_out = sum(frame.video in lacking for frame in [*train, *truth])
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        notes.append(
            f"{len(lacking)} of {len(spoken)} videos of the lists are not in {options.videos}, and "
            f"their {left_out} key frames are left out: {', '.join(lacking[:_NAMED])}{more}"
        )
        train, truth, asked = (
            [frame for frame in part if frame.video in files] for part in (train, truth, asked)
        )
        for part, name in ((train, options.train), (truth, options.test)):
            if not part:
                raise UserError(f"there is no video of those that {folder / name} speaks of")
    highest = max(*done[0], *done[1], *names)
    detected = options.detections is not None
    return DetectionData(train, truth, asked, files, names, highest, detected, tuple(notes))


def _there(folder: Path, name: str, setting: str) -> Path:
    path = folder / name
    if not path.exists():
        raise UserError(
            f"{path} does not exist; name it with {setting}=PATH, relative to {folder}"
            f"{near_path(path)}"
        )
    return path


def _video_files(folder: Path, notes: list[str]) -> dict[str, Path]:
    """Videos, or folders of their frames, by name without ending."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.stem if CLIPS.holds(path.name) else path.name
        if path.is_dir() or CLIPS.holds(path.name):
            if name in files:
                notes.append(f"of {files[name].name} and {path.name} the first is used")
            files.setdefault(name, path)
    return files
