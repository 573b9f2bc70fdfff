import numpy as np
import pytest

from vistill.errors import UserError
from vistill.evaluation.detection.ava import (
    read_actions,
    read_annotations,
    read_detections,
    read_excluded,
    without,
)


def test_rows_of_one_person_are_one_box_with_several_actions(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(
        "a,0902,0.1,0.2,0.3,0.4,12,1\n"
        "a,0902,0.1,0.2,0.3,0.4,80,1\n"
        "a,0902,0.5,0.2,0.9,0.4,12,2\n"
        "b,1.5,0.1,0.2,0.3,0.4,3,0\n"
    )
    first, second = read_annotations(path)
    assert first.moment == ("a", 902.0)
    assert first.actions == (frozenset({12, 80}), frozenset({12}))
    np.testing.assert_allclose(first.boxes, [[0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.9, 0.4]])
    assert second.moment == ("b", 1.5)
    assert without([first, second], {("a", 902.0)}) == [second]


def test_weak_detections_are_left_out_in_both_usual_layouts(tmp_path):
    path = tmp_path / "detections.csv"
    path.write_text("a,902,0.1,0.2,0.3,0.4,,0.95\na,902,0,0,1,1,0.81\na,902,0,0,1,1,,0.79\n")
    (frame,) = read_detections(path, 0.8)
    assert frame.scores == (0.95, 0.81)
    assert frame.actions == (frozenset(), frozenset())


def test_label_map_and_exclusions(tmp_path):
    published = tmp_path / "actions.pbtxt"
    published.write_text('item {\n  name: "bend/bow"\n  id: 1\n}\nitem {\n name: "sit"\n id: 11\n}')
    rows = tmp_path / "actions.csv"
    rows.write_text("1,bend/bow\n11,sit\n")
    assert read_actions(published) == read_actions(rows) == {1: "bend/bow", 11: "sit"}
    excluded = tmp_path / "excluded.csv"
    excluded.write_text("a,0902\n")
    assert read_excluded(excluded) == {("a", 902.0)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,902,0.1,0.2,0.3,0.4", "line 2: not of the form video,seconds,x0"),
        ("a,now,0.1,0.2,0.3,0.4,12,1", "the time 'now' is not a number"),
        ("a,902,0.1,0.2,0.3,0.4,stand,1", "the action 'stand' is not a number"),
        ("a,902,0.1,0.2,0.3,0.4,0,1", "whole number from 1"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path, row, message):
    path = tmp_path / "train.csv"
    path.write_text(f"a,902,0.1,0.2,0.3,0.4,12,1\n{row}\n")
    with pytest.raises(UserError, match=message) as error:
        read_annotations(path)
    assert str(path) in str(error.value)


def test_a_list_of_actions_holds_some(tmp_path):
    path = tmp_path / "actions.pbtxt"
    path.write_text("nothing\n")
    with pytest.raises(UserError, match="holds no action"):
        read_actions(path)


GOOD = "a,902,0.1,0.2,0.3,0.4,12,1\n"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("a,903,0.3,0.2,0.1,0.4,12,1", "1 × left out, a box without area (line 4)"),
        ("a,903,0.3,0.2,0.3,0.4,12,1", "1 × left out, a box without area (line 4)"),
        ("a,903,1.0,0.2,1.1,0.4,12,1", "1 × left out, a box without area (line 4)"),
        ("a,903,10,20,30,40,12,1", "1 × left out, a box that is not on the picture (line 4)"),
        ("a,903,,,,,,", "1 × left out, a key frame without people (line 4)"),
        ("a,903", "1 × left out, a key frame without people (line 4)"),
        ("a,903,0.1,0.2,0.3,0.4,,1", "1 × left out, a person without an action (line 4)"),
        ("a,903,0.1,0.2,0.3,0.4,-1,1", "1 × left out, a person without an action (line 4)"),
    ],
)
def test_one_odd_row_is_left_out_and_told(tmp_path, row, told):
    path = tmp_path / "train.csv"
    path.write_text(f"{GOOD}{GOOD}{GOOD}{row}\n")
    said: list[str] = []
    (frame,) = read_annotations(path, said)
    assert frame.moment == ("a", 902.0)
    assert said == [f"train.csv: {told}"]


def test_boxes_are_cut_to_the_picture(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a,902,-0.001,0.2,1.002,0.4,12,1\na,903,0,0,1,1,12,1\na,904,0,-.2,1,1,3,1\n")
    said: list[str] = []
    frames = read_annotations(path, said)
    np.testing.assert_allclose(frames[0].boxes, [[0.0, 0.2, 1.0, 0.4]])
    np.testing.assert_allclose(frames[2].boxes, [[0.0, 0.0, 1.0, 1.0]])
    assert said == ["train.csv: 2 × box cut to the picture (line 1, …)"]
    path.write_text("a,902,-0.001,0.2,1.002,0.4,,0.9\na,902,0.5,0.5,0.5,0.6,,0.9\na,903\n")
    said.clear()
    (frame,) = read_detections(path, 0.5, said)
    np.testing.assert_allclose(frame.boxes, [[0.0, 0.2, 1.0, 0.4]])
    assert said[0].startswith("train.csv: 1 × box cut to the picture (line 1); 1 × left out, a box")


def test_a_list_in_pixels_is_no_odd_row(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(f"{GOOD}a,902,10,20,30,40,12,1\na,903,12,20,30,40,12,1\n")
    with pytest.raises(UserError, match=r"line 2 and 1 others of 3.*as shares of width and height"):
        read_annotations(path)
    with pytest.raises(UserError, match="as shares of width and height"):
        read_detections(path, 0.0)


def test_a_header_is_passed_over(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(f"video_id,timestamp,x1,y1,x2,y2,action_id,person_id\n{GOOD}")
    said: list[str] = []
    assert len(read_annotations(path, said)) == 1
    assert said == ["train.csv: 1 × left out, a header (line 1)"]
