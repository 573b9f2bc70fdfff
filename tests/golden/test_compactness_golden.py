"""Compactness and diversity of features against the numbers of their definition."""

import pytest

from vistill.analysis.compactness import compactness
from vistill.targets.calibration import Calibration
from vistill.targets.moments import Moments, std_ratio

NAMES = {"scatter_within": "within", "scatter_between": "between"}


def test_compactness(golden):
    case = golden("compactness_ours_0", "kdep")
    features = case.inputs["features"].double()
    found = compactness(features, case.inputs["labels"])
    moments = Moments(features.shape[1])
    moments.add(features)
    for name, value in case.output.items():
        if name == "std_ratio":
            got = std_ratio(Calibration.of(moments).std)[0]
        else:
            got = getattr(found, NAMES.get(name, name))
        assert got == pytest.approx(float(value), rel=case.rtol, abs=case.atol), name
