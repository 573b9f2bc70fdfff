"""Numbers produced by the published code; `tinymim/index.json` describes every case."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "tinymim"
CASES = {case["case"]: case for case in json.loads((FOLDER / "index.json").read_text())["cases"]}


@pytest.fixture
def golden() -> Callable[[str], SimpleNamespace]:
    """`golden(case)`: config, info, tolerances and tensors (inputs, state, output, grad)."""

    def load(name: str) -> SimpleNamespace:
        case = CASES[name]
        parts: dict[str, dict] = {"input": {}, "state": {}, "output": {}, "grad": {}}
        if case["file"]:
            double = case["config"].get("dtype") == "float64"
            for key, tensor in load_file(FOLDER / case["file"]).items():
                part, rest = key.split("/", 1)
                widen = double and tensor.is_floating_point()
                parts[part][rest] = tensor.double() if widen else tensor
        return SimpleNamespace(
            config=case["config"],
            info=case["info"],
            atol=case["tolerance"].get("atol"),
            rtol=case["tolerance"].get("rtol"),
            inputs=parts["input"],
            state=parts["state"],
            output=parts["output"],
            grad=parts["grad"],
        )

    return load
