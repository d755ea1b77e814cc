"""When stable ranks have settled: told by their range over the window, for all layers, from plain numbers."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lehr.base.errors import SettingError
from lehr.lowrank.settle import Settling, settled


def test_all_layers_have_to_settle_within_the_window() -> None:
    flat, falling = [50.0, 10.0, 10.1, 10.0], [13.0, 12.0, 11.0, 10.0]
    assert settled({"a": flat}, window=3, tolerance=0.02)
    assert not settled({"a": flat, "b": falling}, window=3, tolerance=0.02)
    assert not settled({"a": flat}, window=4, tolerance=0.02)
    assert settled({"b": falling}, window=3, tolerance=0.2)


def test_what_swings_or_is_not_known_has_not_settled() -> None:
    assert not settled({"a": [10.0, 15.0, 10.0]}, window=3, tolerance=0.02)  # its ends are the same
    assert not settled({"a": [10.0, 10.0]}, window=3, tolerance=0.02)
    assert not settled({"a": [10.0, math.nan, 10.0]}, window=3, tolerance=0.02)
    assert not settled({"a": [math.inf] * 3}, window=3, tolerance=0.02)
    assert not settled({}, window=3, tolerance=0.02)


@settings(deadline=None)
@given(st.lists(st.floats(1, 500), min_size=3, max_size=8), st.floats(1e-6, 1e6))
def test_the_scale_of_the_ranks_does_not_matter(values: list[float], factor: float) -> None:
    near = max(values[-3:]) - min(values[-3:]) - 0.05 * sum(values[-3:]) / 3
    if abs(near) > 1e-6 * max(values):
        scaled = [factor * value for value in values]
        assert settled({"a": values}, window=3, tolerance=0.05) == settled({"a": scaled}, window=3, tolerance=0.05)


def test_saved_and_loaded_it_goes_on_where_it_was() -> None:
    ranks = [40.0, 20.0, 12.0, 10.0, 10.1, 10.0, 10.05]
    whole = Settling(window=3, tolerance=0.02)
    said = [whole.observe({"a": rank}) for rank in ranks]
    assert said == [False] * 5 + [True, True]
    for cut in range(len(ranks)):
        first, second = Settling(window=3, tolerance=0.02), Settling(window=3, tolerance=0.02)
        before = [first.observe({"a": rank}) for rank in ranks[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert before + [second.observe({"a": rank}) for rank in ranks[cut:]] == said
    assert len(whole.state_dict()["a"]) == 3


def test_layers_that_are_gone_hold_nothing_up() -> None:
    settling = Settling(window=2, tolerance=0.1)
    settling.observe({"a": 5.0, "b": 9.0})
    assert settling.observe({"a": 5.0})


@pytest.mark.parametrize(("window", "tolerance"), [(1, 0.1), (3, 0.0), (3, math.nan)])
def test_settings_that_never_or_always_settle_are_refused(window: int, tolerance: float) -> None:
    with pytest.raises(SettingError, match="use a window of 2 or more"):
        Settling(window=window, tolerance=tolerance)
