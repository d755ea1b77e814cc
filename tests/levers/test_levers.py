"""Every lever: it names settings that exist or says why not; the functions behind them keep what they promise."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
import torch
from helpers import points, recipe, records
from torch import Tensor, nn

import lehr
from lehr.base.errors import DataError, SettingError
from lehr.base.settings import override
from lehr.data.data import Data
from lehr.data.opening import training_loader
from lehr.data.order import ShuffledOrder, bucketed
from lehr.data.sources import PaddedSource, TensorSource, TokenWindows
from lehr.levers import (
    LEVERS,
    LowPrecision,
    NotHere,
    Setup,
    attention,
    channels_last,
    recompute,
    repeated_blocks,
    tf32,
)
from lehr.levers.lever import PHASES
from lehr.models.gpt import GPTSettings
from lehr.optim import OPTIMIZERS
from lehr.recipes import digits, gpt_fast, translate

SETUPS = [
    Setup(cores=cores, threads=1, device=device, data=data, accumulate=accumulate, blocks=blocks, padding=padding)
    for cores, device, data, accumulate, blocks, padding in itertools.product(
        (1, 4), ("cpu", "cuda", "mps"), ("memory", "samples", "stream"), (1, 8), (0, 3), (0.0, 0.4)
    )
]


@pytest.mark.parametrize("name", list(LEVERS))
def test_a_lever_names_settings_that_exist_or_says_why_not(name: str) -> None:
    lever = LEVERS[name].make()
    assert lever.name == name
    assert set(lever.shortens) <= set(PHASES)
    for setup in SETUPS:
        try:
            options = lever.options(setup)
        except NotHere as error:
            assert len(str(error)) > 20, "a reason, in words"
            continue
        assert options
        for settings in options:
            override(recipe(), settings)  # refuses what is unknown


def test_what_is_set_already_is_not_offered_again() -> None:
    cases = {
        "whole-step": Setup(step="whole"),
        "bf16": Setup(precision="bf16"),
        "bf16-weights": Setup(precision="bf16-weights"),
        "channels-last": Setup(convolutions=3, channels_last=True),
        "compile-blocks": Setup(blocks=3, compile="blocks"),
        "bucketing": Setup(padding=0.5, bucket=True),
        "packed-dropout": Setup(dropouts=3, dropout="packed"),
        "resident-data": Setup(device="cuda", resident=True),
        "copy-ahead": Setup(device="cuda", copy_ahead=True),
    }
    for name, setup in cases.items():
        with pytest.raises(NotHere, match="already"):
            LEVERS[name].make().options(setup)


def test_without_a_compiler_nothing_is_compiled_and_it_says_so() -> None:
    for name in ("whole-step", "compile", "compile-blocks", "cuda-graphs"):
        with pytest.raises(NotHere, match="compiler"):
            LEVERS[name].make().options(Setup(compiler=False, blocks=3))


def test_what_compiles_takes_the_others_place() -> None:
    whole, compiled = LEVERS["whole-step"].make(), LEVERS["compile"].make()
    assert ("compile=false", "dropout=torch", "step=whole") in whole.options(Setup(compile=True))
    settings = compiled.options(Setup(step="whole"))[0]
    made = override(override(recipe(), ["step=whole"]), settings)
    assert (made.step, made.compile) == ("eager", True)
    assert override(made, whole.options(Setup(compile=True))[0]).step == "whole"


def test_8_bit_moments_take_over_the_rate_and_the_decay() -> None:
    lever = LEVERS["8-bit-optimizer"].make()
    made = override(recipe(), lever.options(Setup(adamw=("optim.lr=0.01", "optim.betas=[0.9, 0.95]")))[0])
    assert (type(made.optim).__name__, made.optim.lr, made.optim.betas) == ("AdamW8bit", 0.01, (0.9, 0.95))
    for setup in (Setup(adamw=None), Setup(optimizer="muon"), Setup(channels_last=True)):
        with pytest.raises(NotHere):
            lever.options(setup)


class Stack(nn.Module):
    """Blocks with dropout and a batch norm, so that noise and buffers matter."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)) for _ in range(depth)
        )
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def gradients(model: nn.Module, called: nn.Module | None = None) -> list[Tensor]:
    torch.manual_seed(0)
    model.zero_grad(set_to_none=True)
    (called or model)(points()[0]).square().sum().backward()
    return [p.grad for p in model.parameters()]


def test_repeated_blocks_are_those_of_a_list_of_one_kind() -> None:
    model = Stack()
    assert repeated_blocks(model) == list(model.blocks)
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == [], "layers are no blocks"
    assert len(repeated_blocks(GPTSettings(depth=3).build({"vocab_size": 5, "context": 8}))) == 3


@pytest.mark.parametrize("how", ["blocks", "cheap"])
def test_recomputed_gradients_are_the_same_bit_for_bit(how: str) -> None:
    torch.manual_seed(1)
    model = Stack()
    before = gradients(model)
    names = list(model.state_dict())
    recompute(model, how)  # type: ignore[arg-type]
    assert list(model.state_dict()) == names
    for one, other in zip(before, gradients(model), strict=True):
        assert torch.equal(one, other)


def test_recomputing_keeps_less() -> None:
    def kept(how: str) -> int:
        model, sizes = recompute(Stack(8), how), []  # type: ignore[arg-type]
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            model(points()[0])
        return sum(sizes)

    assert kept("blocks") < 0.5 * kept("nothing")
    assert kept("blocks") <= kept("cheap") <= kept("nothing")


def test_recompute_without_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no.* blocks|has none"):
        lehr.train(recipe(recompute="blocks"), run_dir=tmp_path / "run")


def test_low_precision_gradients_arrive_in_float32_and_statistics_stay() -> None:
    torch.manual_seed(1)
    model = Stack()
    exact = gradients(model)
    mean = model.norm.running_mean.clone()
    seen: list[torch.dtype] = []
    model.blocks[0][0].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    low = gradients(model, LowPrecision(model))
    assert seen == [torch.bfloat16]
    assert {g.dtype for g in low} == {torch.float32}
    assert model.norm.running_mean.dtype == torch.float32
    assert not torch.equal(model.norm.running_mean, mean), "statistics are still collected"
    flat = [torch.cat([g.flatten() for g in grads]) for grads in (exact, low)]
    assert torch.cosine_similarity(flat[0], flat[1], dim=0) > 0.99


def test_low_precision_casts_constants_and_ties() -> None:
    model = GPTSettings(width=16, depth=1, heads=2, tie=True).build({"vocab_size": 7, "context": 8})
    nn.init.normal_(model.embedding.weight)
    ids = torch.randint(7, (2, 8), generator=torch.Generator().manual_seed(0))
    out = LowPrecision(model)(ids)
    assert out.dtype == torch.float32
    assert torch.allclose(out, model(ids), atol=0.3)
    out.sum().backward()
    assert model.embedding.weight.grad is not None


def test_attention_is_switched_and_put_back() -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    with attention("math"):
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() == before
    with pytest.raises(RuntimeError, match="inside"), attention("math"):
        raise RuntimeError("inside")
    assert torch.backends.cuda.flash_sdp_enabled() == before
    with pytest.raises(SettingError, match="no kernel"), attention("fast"):  # type: ignore[arg-type]
        pass


def test_tf32_is_put_back_and_refused_on_a_cpu(tmp_path: Path) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with tf32():
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() != "highest"
    assert torch.backends.cuda.matmul.allow_tf32 == before
    with pytest.raises(SettingError, match="tf32.*NVIDIA"):
        lehr.train(recipe(precision="tf32"), run_dir=tmp_path / "run")


def test_channels_last_keeps_values_and_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    before, weights = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    out = channels_last(model)(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(before, out, atol=1e-5)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_channels_last_without_convolutions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no effect"):
        lehr.train(recipe(channels_last=True), run_dir=tmp_path / "run")


def test_bucketed_is_a_permutation_with_less_padding_that_follows_from_seed_and_epoch() -> None:
    lengths = torch.randint(1, 60, (1003,), generator=torch.Generator().manual_seed(0))
    plain = torch.randperm(1003, generator=torch.Generator().manual_seed(1))
    made = bucketed(plain, lengths, batch_size=8, seed=0, epoch=0)
    assert torch.equal(made.sort().values, torch.arange(1003))
    assert torch.equal(made[1000:], plain[1000:]), "what makes no whole batch stays last"

    def padded(order: Tensor) -> int:
        return sum(int(lengths[b].max()) * len(b) for b in order.split(8))

    assert padded(made) < 0.7 * padded(plain)
    assert torch.equal(made, bucketed(plain, lengths, batch_size=8, seed=0, epoch=0))
    assert not torch.equal(made, bucketed(plain, lengths, batch_size=8, seed=0, epoch=1))


def test_bucketing_needs_lengths() -> None:
    with pytest.raises(SettingError, match="how long samples are"):
        training_loader(points(), Data(batch_size=8, bucket=True), seed=0)
    with pytest.raises(SettingError, match="bucket has no effect"):
        training_loader(iter([1]), Data(batch_size=8, bucket=True), seed=0)
    source = PaddedSource((torch.tensor([[1, 0], [1, 2], [3, 0], [1, 1]]),))
    loader = training_loader(source, Data(batch_size=2, bucket=True), seed=0)
    assert sorted(next(loader)[0].shape[1] for _ in range(2)) == [1, 2]


def test_resident_data_is_the_same_data() -> None:
    cpu = torch.device("cpu")
    for source in (TensorSource(points()), TokenWindows(torch.arange(50), context=4)):
        order = ShuffledOrder(len(source), batch_size=4, seed=0)
        there = source.on(cpu).take_batch(order.batch(0, 0), epoch=0, seed=0)
        assert torch.equal(there[0], source.take_batch(order.batch(0, 0), epoch=0, seed=0)[0])
    with pytest.raises(SettingError, match="no effect on a CPU"):
        training_loader(points(), Data(batch_size=4, resident=True), seed=0, device=cpu)


RECIPES = {
    "bf16-weights": (lambda: gpt_fast.recipe(), ["precision=bf16-weights", "model.depth=2", "model.width=32"]),
    "recompute": (lambda: gpt_fast.recipe(), ["recompute=cheap", "model.depth=2", "model.width=32"]),
    "attention": (lambda: gpt_fast.recipe(), ["attention=math", "model.depth=2", "model.width=32"]),
    "channels_last": (lambda: digits.recipe(), ["channels_last=true", "epochs=null", "steps=12"]),
    "packed_dropout": (lambda: translate.recipe(), ["dropout=packed", "model.width=32", "model.depth=1"]),
    "packed_dropout, recomputed": (
        lambda: gpt_fast.recipe(),
        ["dropout=packed", "recompute=blocks", "model.dropout=0.1", "model.depth=2", "model.width=32"],
    ),
    "bucket": (lambda: translate.recipe(), ["data.bucket=true", "model.width=32", "model.depth=1"]),
}


@pytest.mark.parametrize("name", ["whole-step", "compile", "compile-blocks"])
def test_what_compiles_takes_the_place_of_packed_dropout(name: str, tmp_path: Path) -> None:
    """`lehr speed` may have kept the one before it tries the other."""
    own = ["model.depth=2", "model.width=32", "model.dropout=0.1", "dropout=packed"]
    for settings in LEVERS[name].make().options(Setup(blocks=2, dropouts=5, dropout="packed")):
        made = override(gpt_fast.recipe(), [*own, *settings])
        assert made.dropout == "torch"
        lehr.Trainer(made, run_dir=tmp_path / "run" / "-".join(settings))


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_run_with_a_lever_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    make, settings = RECIPES[name]
    common = ["steps=12", "save.every=4", "save.keep=9", "evaluate.every=12", "evaluate.batches=1", "track.every=1"]
    settings = [s for s in settings if not s.startswith(("epochs", "steps"))] + common
    whole = lehr.train(make(), run_dir=tmp_path / "whole", overrides=settings)
    lehr.train(make(), run_dir=tmp_path / "cut", overrides=settings)
    for later in (8, 12):
        folder = tmp_path / "cut" / "checkpoints" / f"step-{later:08}"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    again = lehr.resume(tmp_path / "cut", recipe=override(make(), settings))
    kept = [
        {k: v for k, v in r.items() if not k.endswith(("seconds", "per_second"))} for r in records(tmp_path / "whole")
    ]
    assert again.val_loss == whole.val_loss
    assert [
        {k: v for k, v in r.items() if not k.endswith(("seconds", "per_second"))} for r in records(tmp_path / "cut")
    ] == kept


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*Dynamo does not know how to trace:UserWarning")
def test_bf16_weights_go_into_the_whole_step(tmp_path: Path) -> None:
    settings = ["precision=bf16-weights", "model.depth=1", "model.width=16", "steps=6", "evaluate.every=6"]
    settings += ["evaluate.batches=1", "data.context=16"]
    eager = lehr.train(gpt_fast.recipe(), run_dir=tmp_path / "eager", overrides=settings)
    whole = lehr.train(gpt_fast.recipe(), run_dir=tmp_path / "whole", overrides=[*settings, "step=whole"])
    assert whole.val_loss == pytest.approx(eager.val_loss, rel=1e-2)
    assert whole.compilations == 1


class Norms(nn.Module):
    """Blocks that collect statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x[:, :3]


class Called(nn.Module):
    """Has a method that an objective calls in place of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def logits(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": Norms, "recompute": "blocks"}, "collect statistics"),
        ({"model": Stack, "precision": "bf16-weights", "recompute": "cheap"}, "has none|does not go with"),
        ({"dropout": "packed", "compile": True}, "its draws itself"),
        ({"dropout": "packed", "step": "whole"}, "its draws itself"),
        ({"dropout": "packed", "model": lambda: nn.Linear(4, 3)}, "no torch.nn.Dropout"),
        ({"attention": "cudnn"}, "a kernel of CUDA devices"),
        ({"optim": "adamw_8bit", "channels_last": True}, "does not go with optim=adamw_8bit"),
        (
            {
                "model": Called,
                "precision": "bf16-weights",
                "objective": lambda model, batch: (model.logits(batch[0]).square().sum(), len(batch[0])),
                "metrics": (),
            },
            "logits",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_first_step(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=said):
        lehr.Trainer(recipe(**changes, device="cpu"), run_dir=tmp_path / "run")


def test_bucketing_without_shuffling_and_lengths_that_are_none_are_refused() -> None:
    source = PaddedSource((torch.tensor([[1, 0], [1, 2], [3, 0], [1, 1]]),))
    with pytest.raises(SettingError, match="data.shuffle is false"):
        training_loader(source, Data(batch_size=2, bucket=True, shuffle=False), seed=0)

    class Samples:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Tensor:
            return torch.zeros(2)

        def lengths(self) -> list[int]:
            return [1, 2, 3, 4]

    with pytest.raises(DataError, match="cannot be read as numbers"):
        training_loader(Samples(), Data(batch_size=2, bucket=True), seed=0)


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name not in ("muon", "projected", "adamw_8bit")])
def test_channels_last_resumes_bit_for_bit_with_every_optimizer(optimizer: str, tmp_path: Path) -> None:
    settings = [f"optim={optimizer}", "channels_last=true", "steps=8", "save.every=4", "save.keep=9", "track.every=1"]
    settings += ["evaluate.every=8", "model.width=8"]
    whole = lehr.train(digits.recipe(), run_dir=tmp_path / "whole", overrides=settings)
    lehr.train(digits.recipe(), run_dir=tmp_path / "cut", overrides=settings)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000008")
    again = lehr.resume(tmp_path / "cut", recipe=override(digits.recipe(), settings))
    assert whole.model is not None and again.model is not None
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
