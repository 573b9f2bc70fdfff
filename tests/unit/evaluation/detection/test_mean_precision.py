"""Frame-mAP on cases worked out by hand."""

import pytest
import torch

from vistill.evaluation.detection.mean_precision import (
    Actions,
    average_precision,
    frame_average_precisions,
)

LEFT, RIGHT = (0.0, 0.0, 0.4, 1.0), (0.5, 0.0, 0.9, 1.0)
NEAR_LEFT = (0.05, 0.0, 0.4, 1.0)  # 0.875 of LEFT


def actions(*rows) -> Actions:
    frames, boxes, numbers, scores = zip(*rows, strict=True)
    return Actions(
        torch.tensor(frames), torch.tensor(boxes), torch.tensor(numbers), torch.tensor(scores)
    )


def test_average_precision_by_hand():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    hits = torch.tensor([True, False, True, True, False])
    # Precisions 1, 1/2, 2/3, 3/4, 3/5; the best at or behind each recall: 1, 3/4, 3/4.
    assert average_precision(scores, hits, 4) == pytest.approx((1 + 0.75 + 0.75) / 4)
    assert average_precision(scores, hits, 3) == pytest.approx((1 + 0.75 + 0.75) / 3)
    assert average_precision(scores[:0], hits[:0], 2) == 0.0
    shuffled = torch.tensor([3, 0, 4, 2, 1])
    assert average_precision(scores[shuffled], hits[shuffled], 4) == pytest.approx(2.5 / 4)


def test_a_second_detection_of_a_person_is_wrong():
    truth = actions((0, LEFT, 1, 1.0), (0, RIGHT, 1, 1.0))
    found = actions((0, LEFT, 1, 0.9), (0, NEAR_LEFT, 1, 0.8), (0, RIGHT, 1, 0.7))
    # Right, wrong, right: (1 + 2/3) / 2.
    assert frame_average_precisions(found, truth, {1}) == {1: pytest.approx(5 / 6)}


def test_overlap_frame_and_action_have_to_agree():
    truth = actions((0, LEFT, 1, 1.0), (1, LEFT, 2, 1.0))
    elsewhere = actions((1, LEFT, 1, 0.9), (0, RIGHT, 1, 0.8), (2, LEFT, 2, 0.3))
    assert frame_average_precisions(elsewhere, truth, {1, 2}) == {1: 0.0, 2: 0.0}
    near = actions((0, NEAR_LEFT, 1, 0.9))
    assert frame_average_precisions(near, truth, {1}) == {1: 1.0}
    assert frame_average_precisions(near, truth, {1}, threshold=0.9) == {1: 0.0}


def test_actions_that_nobody_does_do_not_count():
    truth = actions((0, LEFT, 1, 1.0))
    found = actions((0, LEFT, 1, 0.2), (0, LEFT, 7, 0.9))
    assert frame_average_precisions(found, truth, {1, 7}) == {1: 1.0}
