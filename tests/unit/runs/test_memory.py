"""What no machine can hold is refused before anything of it is made."""

import pytest

from vistill.config.loading import load_config, recipe_names
from vistill.config.overrides import parse_overrides
from vistill.errors import UserError
from vistill.runs.build import build
from vistill.runs.memory import host_memory, require_memory


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("student.depth=1000 student.embed_dim=65536 student.num_heads=16", "5.2e+13 parameters"),
        ("student.patch_size=1 data.image_size=16384", "on 2.68e+08 tokens would have 1e+11"),
        ("method.decoder.depth=1000 method.decoder.embed_dim=65536", "method.decoder of 1000 bl"),
    ],
)
def test_more_than_the_machine_has(
    words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vistill.runs.memory.host_memory", lambda: 16 * 10**9)
    with pytest.raises(UserError, match=r"TB of weights|GB of weights") as caught:
        build(load_config("mae", parse_overrides(words.split())))
    assert message in str(caught.value)
    assert "and this machine has 16 GB of memory" in str(caught.value)


def test_every_recipe_fits() -> None:
    assert host_memory() > 2**30
    for name in recipe_names():
        require_memory(load_config(name, []))
