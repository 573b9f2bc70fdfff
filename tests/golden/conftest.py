"""Numbers produced by the published code; `SET/index.json` describes every case of a set."""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from golden_cases import FOLDER, cases
from safetensors.torch import load_file


@pytest.fixture
def golden() -> Callable[..., SimpleNamespace]:
    """`golden(case, set)`: config, info, tolerances and tensors (inputs, state, output, ...)."""

    def load(name: str, golden_set: str = "tinymim") -> SimpleNamespace:
        case = cases(golden_set)[name]
        config, tolerance = case.get("config", {}), case.get("tolerance", {})
        parts: dict[str, dict] = defaultdict(dict)
        if case.get("file"):
            double = config.get("dtype") in ("float64", "f64")
            for key, tensor in load_file(FOLDER / golden_set / case["file"]).items():
                part, rest = key.split("/", 1)
                widen = double and tensor.is_floating_point()
                parts[part][rest] = tensor.double() if widen else tensor
        expected = case.get("expected", case.get("expected_json"))
        return SimpleNamespace(
            config=config,
            info=case.get("info", expected),
            atol=tolerance.get("atol"),
            rtol=tolerance.get("rtol"),
            inputs=parts["input"],
            state=parts["state"],
            output=parts["output"],
            grad=parts["grad"],
            updated=parts["updated"],
            output64=parts["output64"],
        )

    return load
