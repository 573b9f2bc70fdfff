"""A finished run that the end-to-end tests share."""

from pathlib import Path

import pytest
from command_line import CELLS, MAE, run_afresh


@pytest.fixture(scope="session")
def mae_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished MAE run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "mae"
    words = ["--data", CELLS / "train", "--out", out, *MAE, "train.epochs=2"]
    done = run_afresh("pretrain", "mae", *words)
    (out / "stdout.txt").write_text(done.stdout)
    return out
