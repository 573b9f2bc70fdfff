"""A method is one class in one file that a reader takes in at once."""

from pathlib import Path

import pytest

from vistill.config.problems import sections
from vistill.config.schema import RunConfig
from vistill.methods import METHODS, base

FOLDER = Path(base.__file__).parent


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_at_most_150_lines(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 150


def test_every_section_has_a_method():
    named = set(sections(RunConfig.model_fields["method"].annotation))
    assert named == {*METHODS, "custom"}
