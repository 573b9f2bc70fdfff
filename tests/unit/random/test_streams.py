"""Per-sample randomness depends on the sample's seed and the stream only."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vistill.random import Stream, per_sample_uniform

seeds = st.lists(
    st.integers(min_value=-(2**63), max_value=2**63 - 1), min_size=1, max_size=5, unique=True
)


@given(seeds, st.sampled_from(Stream))
def test_a_sample_draws_the_same_in_any_batch(values, stream):
    together = per_sample_uniform(torch.tensor(values), 7, stream)
    alone = torch.cat([per_sample_uniform(torch.tensor([v]), 7, stream) for v in values])
    assert torch.equal(together, alone)
    assert together.min() >= 0
    assert together.max() < 1


def test_draws_look_uniform_and_streams_differ():
    draws = [per_sample_uniform(torch.arange(200), 500, stream) for stream in Stream]
    for draw in draws:
        assert abs(draw.mean() - 0.5) < 0.005
        assert abs(draw.var() - 1 / 12) < 0.002
        rows = draw - draw.mean()
        neighbours = (rows[1:] * rows[:-1]).mean() / rows.var()
        assert abs(neighbours) < 0.02
    assert not torch.equal(draws[0], draws[1])


def test_every_use_of_a_seed_has_a_stream_of_its_own() -> None:
    draws = {
        name: tuple(per_sample_uniform(torch.tensor([7]), 3, stream)[0].tolist())
        for name, stream in Stream.__members__.items()
    }
    assert len(set(draws.values())) == len(Stream.__members__)
