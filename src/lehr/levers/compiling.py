"""torch.compile: the model in its modes, or its repeated blocks, which are compiled once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["BLOCKS", "COMPILE", "GRAPHS"]


def _refuse(setup: Setup) -> None:
    if not setup.compiler:
        raise NotHere(
            "no C++ compiler is found (g++, clang++, or what CXX names), and on a CPU torch.compile needs one"
        )


def _options(setup: Setup) -> Sequence[Settings]:
    _refuse(setup)
    return [
        ("step=eager", "dropout=torch", f"compile={how}")
        for how in ("true", "max-autotune")
        if how != str(setup.compile).lower()
    ]


def _blocks(setup: Setup) -> Sequence[Settings]:
    _refuse(setup)
    if not setup.blocks:
        raise NotHere("the model has no repeated blocks")
    if setup.compile == "blocks":
        raise NotHere("the blocks are compiled already")
    return [("step=eager", "dropout=torch", "compile=blocks")]


def _graphs(setup: Setup) -> Sequence[Settings]:
    _refuse(setup)
    if setup.device != "cuda":
        raise NotHere("CUDA graphs need a CUDA device")
    return [("step=eager", "dropout=torch", "compile=reduce-overhead")]


COMPILE = Lever(
    name="compile",
    summary="the model compiled by torch.compile, plainly or with max-autotune",
    shortens=("forward", "backward", "python"),
    options=_options,
    changes="noise",
    compiles=True,
)
BLOCKS = Lever(
    name="compile-blocks",
    summary="the model's repeated blocks compiled, once for all of them: a shorter compilation",
    shortens=("forward", "backward", "python"),
    options=_blocks,
    changes="noise",
    compiles=True,
)
GRAPHS = Lever(
    name="cuda-graphs",
    summary="the compiled model replayed as CUDA graphs (mode reduce-overhead)",
    shortens=("forward", "backward", "python"),
    options=_graphs,
    changes="noise",
    compiles=True,
    untested="everywhere: it needs a CUDA device",
)
