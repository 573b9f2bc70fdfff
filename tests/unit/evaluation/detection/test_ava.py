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
        ("a,902,0.3,0.2,0.1,0.4,12,1", "line 2: a box is x0,y0,x1,y1 with x0 < x1"),
        ("a,902,10,20,30,40,12,1", "as shares of width and height"),
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
