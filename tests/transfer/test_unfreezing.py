"""Which blocks train follows from the step."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lehr.optim import depths
from lehr.transfer.unfreezing import train_from_depth, unfrozen_depth


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 12), st.lists(st.integers(1, 100), max_size=12, unique=True), st.integers(0, 120))
def test_one_block_more_at_each_boundary(top: int, steps: list[int], step: int) -> None:
    boundaries = sorted(steps)
    expected = top
    for boundary in boundaries:
        if step >= boundary:
            expected -= 1
    assert unfrozen_depth(step, top=top, boundaries=boundaries) == max(expected, 0)


def test_norms_follow_their_parameters() -> None:
    model = nn.Sequential(
        nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.Linear(2, 1)
    )
    norms = [model[1], model[3]]
    for depth, trains, mode in ((2, "4", False), (1, "24", False), (0, "0124", True)):
        train_from_depth(model, depths(model), depth, norms)
        assert {name[0] for name, p in model.named_parameters() if p.requires_grad} == set(trains)
        assert model[1].training is mode
        assert model[3].training is True  # it has no parameters that could be frozen
