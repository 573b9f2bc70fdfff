import torch

from vistill.evaluation.detection.boxes import clip_boxes, enlarge_boxes, jitter_boxes, overlaps


def test_overlaps_by_hand():
    ours = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.9]])
    theirs = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.6, 0.6, 1.0, 1.0]])
    expected = torch.tensor([[1.0, 1 / 3, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(overlaps(ours, theirs), expected)


def test_enlarged_boxes_keep_their_centre_and_are_cut_at_the_border():
    boxes = torch.tensor([[10.0, 20.0, 29.0, 39.0]])
    expected = torch.tensor([[9.0, 19.5, 30.0, 39.5]])
    torch.testing.assert_close(enlarge_boxes(boxes), expected)
    cut = clip_boxes(torch.tensor([[-3.0, -1.0, 50.0, 99.0]]), 40, 30)
    assert cut.tolist() == [[0, 0, 29, 39]]


def test_jitter_stays_in_its_bounds_and_uses_them():
    boxes = torch.tensor([[100.0, 200.0, 199.0, 399.0]]).expand(4000, 4)
    moved = jitter_boxes(boxes, torch.arange(4000) * 7) - boxes
    for column, low, high in ((0, -20, 10), (1, -20, 10), (2, -10, 20), (3, -10, 20)):
        side = moved[:, column]
        assert low <= side.min() < low + 1
        assert high - 1 < side.max() <= high
    assert abs(torch.corrcoef(moved.T) - torch.eye(4)).max() < 0.06  # every side on its own
