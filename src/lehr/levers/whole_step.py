"""Forward pass, backward pass and clipping as one compiled graph (`lehr.training.steps.whole`)."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["WHOLE_STEP"]


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.step == "whole":
        raise NotHere("the step is one graph already")
    if not setup.compiler:
        raise NotHere("no C++ compiler is found (g++, clang++, or what CXX names), and on a CPU the graph needs one")
    if setup.world > 1:
        raise NotHere(f"{setup.world} processes share gradients in the middle of a step")
    if setup.precision == "fp16":
        raise NotHere("fp16 reads its scale in the middle of a step")
    return [("compile=false", "dropout=torch", "step=whole")]  # one takes the other's place


WHOLE_STEP = Lever(
    name="whole-step",
    summary="forward pass, backward pass and clipping as one compiled graph",
    shortens=("forward", "backward", "python"),
    options=_options,
    changes="noise",
    compiles=True,
    untested="accelerators",
)
