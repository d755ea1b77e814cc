"""The modes of compilation: each trains the same run, but for rounding; a state of one loads into any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lehr
from lehr.base.errors import SettingError
from lehr.base.settings import override
from lehr.run.recipe import Recipe
from lehr.training.compiled import CompileWatch

pytestmark = [
    pytest.mark.slow,  # each compiles, for some seconds
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # so is this, of a block's input
]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


class Stack(nn.Module):
    """Blocks of one kind."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def stacked() -> Recipe:
    from helpers import recipe

    return recipe(model=Stack, steps=8)


@pytest.mark.parametrize("how", ["true", "blocks", "max-autotune"])
def test_each_mode_trains_the_same(how: str, tmp_path: Path) -> None:
    torch._dynamo.reset()
    eager = lehr.train(stacked(), run_dir=tmp_path / "eager")
    made = lehr.train(override(stacked(), [f"compile={how}"]), run_dir=tmp_path / "compiled")
    assert made.val_loss == pytest.approx(eager.val_loss, rel=1e-4)
    assert made.compilations
    assert list(made.model.state_dict()) == list(eager.model.state_dict())


def test_blocks_share_their_graph() -> None:
    torch._dynamo.reset()
    model = Stack(6)
    watch = CompileWatch(model, "blocks")
    watch.called(torch.ones(2, 4)).sum().backward()
    assert watch.compilations == 2, "one for the first block, whose input needs no gradient, and one for all others"


def test_blocks_of_a_model_without_any_are_refused(tmp_path: Path) -> None:
    from helpers import recipe

    with pytest.raises(SettingError, match="compile=blocks needs a model with repeated blocks"):
        lehr.train(recipe(compile="blocks"), run_dir=tmp_path / "run")


def test_blocks_of_torchs_own_classes_are_refused() -> None:
    with pytest.raises(SettingError, match="torch's own TransformerEncoderLayer"):
        CompileWatch(nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2), 2, enable_nested_tensor=False), "blocks")


def test_cuda_graphs_without_cuda_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="reduce-overhead is CUDA graphs, and the device is cpu"):
        lehr.train(override(stacked(), ["compile=reduce-overhead", "device=cpu"]), run_dir=tmp_path / "run")


def test_the_whole_step_does_not_go_with_a_compiled_model() -> None:
    with pytest.raises(SettingError, match="step=whole is not possible with compile=blocks"):
        override(stacked(), ["compile=blocks", "step=whole"])
