"""Relative position bias tables against the published code: indices and resized tables."""

import pytest
import torch

from vistill.models.positions import resize_position_table
from vistill.models.relative_bias import relative_position_index, resize_bias_table


def test_index(golden):
    case = golden("rpb_index", "fd")
    for rows, columns, class_token in case.config["windows"]:
        name = f"index_{rows}x{columns}_{'cls' if class_token else 'nocls'}"
        found = relative_position_index((rows, columns), bool(class_token))
        assert torch.equal(found, case.output[name])


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_resized_table(golden, name):
    case = golden("rpb_interp", "fd")
    table, class_token = case.inputs[name], case.config["cls"][name]
    side = round(((len(table) - 3 * class_token) ** 0.5 + 1) / 2)
    new = case.config["dst"][name]
    found = resize_bias_table(table, (side, side), (new, new), class_token)
    torch.testing.assert_close(found, case.output[name], atol=case.atol, rtol=case.rtol)


def test_resized_positions(golden):
    case = golden("ape_interp", "fd")
    new = case.config["dst"]
    found = resize_position_table(case.inputs["pos_embed"], 1, (5, 5), (new, new))
    torch.testing.assert_close(found, case.output["pos_embed"], atol=case.atol, rtol=case.rtol)
