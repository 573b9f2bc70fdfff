"""A folder of AVA's format: which lists and videos belong to it, checked before any work."""

from dataclasses import dataclass
from pathlib import Path

from vistill.config.detection import DetectionConfig
from vistill.errors import UserError
from vistill.evaluation.detection.ava import (
    KeyFrame,
    read_actions,
    read_annotations,
    read_detections,
    read_excluded,
    without,
)


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
    """

    train: list[KeyFrame]
    truth: list[KeyFrame]
    asked: list[KeyFrame]
    files: dict[str, Path]
    names: dict[int, str]
    num_actions: int
    detected: bool


def open_detection(folder: Path, options: DetectionConfig) -> DetectionData:
    """Read the lists that `options` name in `folder`.

    Raises:
        UserError: something is missing or cannot be read; before any video is opened.
    """
    train = read_annotations(_there(folder, options.train, "detection.train"))
    truth = read_annotations(_there(folder, options.test, "detection.test"))
    if options.excluded is not None:
        excluded = read_excluded(_there(folder, options.excluded, "detection.excluded"))
    else:
        excluded = set()
    truth = without(truth, excluded)
    asked = truth
    if options.detections is not None:
        path = _there(folder, options.detections, "detection.detections")
        asked = without(read_detections(path, options.least_score), excluded)
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
    files = _video_files(_there(folder, options.videos, "detection.videos"))
    for frame in [*train, *truth, *asked]:
        if frame.video not in files:
            raise UserError(
                f"there is no video file '{frame.video}' in {folder / options.videos}, which the "
                "lists speak of"
            )
    highest = max(*done[0], *done[1], *names)
    detected = options.detections is not None
    return DetectionData(train, truth, asked, files, names, highest, detected)


def _there(folder: Path, name: str, setting: str) -> Path:
    path = folder / name
    if not path.exists():
        raise UserError(f"{path} does not exist; name it with {setting}=PATH, relative to {folder}")
    return path


def _video_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir()) if path.is_file()}
