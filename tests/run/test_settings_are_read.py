"""Every setting that is accepted is read by what it sets, or refused with the reason; nothing is taken from a batch."""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from inspect import get_annotations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import OF_SMALL_MODELS, Mlp, points, recipe
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lehr
from lehr.base.errors import LehrWarning, SettingError
from lehr.base.settings import Settings, override
from lehr.data import Data
from lehr.layers import Initialized
from lehr.losses import Distilled, cross_entropy, label_smoothing
from lehr.models.convnet import ConvNetSettings
from lehr.optim import OPTIMIZERS, AdamW, AdamW8bit, Muon, Rule
from lehr.recipes.table import RECIPES
from lehr.run.recipe import Evaluate, Recipe, Save
from lehr.schedules import Plateau, Warmup
from lehr.training.methods import METHODS
from lehr.training.stopping import Stop

PACKAGE = Path(lehr.__file__).parent
BOOKKEEPING = {"base/settings.py", "run/origin.py"}
"""Read every field to write it down, to compare it or to replace it: that is no use of a setting."""
CHECKS = {"_check", "warn_of_no_effect"}
"""Functions that look at settings only to refuse or to warn."""


def kinds() -> set[type[Settings]]:
    """Return every class of settings in the package."""
    for module in pkgutil.walk_packages(lehr.__path__, "lehr."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[Settings]) -> Iterator[type[Settings]]:
        for inner in kind.__subclasses__():
            yield inner
            yield from below(inner)

    return {kind for kind in below(Settings) if kind.__module__.startswith("lehr.")}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Count the reads of each field by code of the package that does something with it."""
    counted: Counter[tuple[str, str]] = Counter()
    users = {str(file) for file in PACKAGE.rglob("*.py") if str(file.relative_to(PACKAGE)) not in BOOKKEEPING}

    def read(self: Settings, name: str) -> Any:
        frame = sys._getframe(1)
        if not name.startswith("_") and frame.f_code.co_filename in users and frame.f_code.co_name not in CHECKS:
            for kind in type(self).__mro__:  # a field counts for the class that declares it
                if name in get_annotations(kind):
                    counted[kind.__name__, name] += 1
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Settings, "__getattribute__", read)
    return counted


def pictures(folder: Path) -> str:
    for shade, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for place in range(4):
            Image.fromarray(np.full((12, 12, 3), 120 * shade + place, np.uint8)).save(folder / name / f"{place}.png")
    return str(folder)


SMALL = ["steps=2", "model.width=8", "data.batch_size=4"]
GPT = ["model.depth=1", "model.heads=2", "data.context=8"]


def built_in(folder: Path) -> dict[str, list[str]]:
    """Return the built-in recipes, with what makes them small."""
    (folder / "text.txt").write_text("a few words of a text\n" * 40)
    np.arange(600, dtype=np.uint16).tofile(folder / "tokens.bin")
    (folder / "pairs.tsv").write_text("".join(f"word {i}\tWort {i}\n" for i in range(20)))
    return {
        "gpt-text": [*SMALL, *GPT, f"data.path={folder / 'text.txt'}"],
        "digits": SMALL,
        "translate": [*SMALL, f"data.path={folder / 'pairs.tsv'}", "model.depth=1", "model.heads=2", "data.pairs=12"],
        "images": [*SMALL, f"data.path={pictures(folder / 'pictures')}", "data.size=8", "model.blocks=1"],
        "gpt2-124m": [*SMALL, *GPT, f"data.path={folder / 'tokens.bin'}", "data.vocab_size=600", "schedule.warmup=1",
                      "accumulate=2", "precision=fp32"],
    }  # fmt: skip


RULES = (Rule(pattern="*.bias", depth=(0, -1), rate=0.5), Rule(module="BatchNorm1d", weight_decay=0.1, frozen=True))
SCHEDULE_TEXTS = (
    "step(every=2)", "multi_step(milestones=[3, 5])", "exponential", "scaled(cosine, 0.5)", "cosine_restarts(period=2)",
    "linear", "polynomial", "one_cycle", "cyclic(up=2)", "warmup(2) then inverse_sqrt", "wsd(warmup=1)", "annealing",
    "plateau times warmup", "repeated(cosine(4), 2)", "clipped(cosine, 0.1, 0.9)",
)  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "mixup": {"classes": 3},
    "cutmix": {"classes": 3},
    "gradual_unfreezing": {"every": 1},
    "stabilize_gradients": {"min_size": 2, "balance": "row_sum", "threshold": 1e-6},
    "progressive_lowrank": {"budget": 0.9, "layers": ["head"], "allowed": 9.0},
    "lowrank_layers": {"ratio": 0.4, "layers": ["head"], "multiple": 1, "margin": 1e-9},
    "dynamic_lowrank": {"levels": [[0, 0.4], [2, 0.7]], "layers": ["head"]},
    "lora": {"rank": 1, "layers": ["head"]},
}
OTHERWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "low rank by budget": ("lowrank_layers", {"budget": 0.9, "layers": ["head"], "multiple": 1, "margin": 1e-9}),
    "rank by energy": ("dynamic_lowrank", {"energy": 0.9, "ratios": [0.4, 0.7], "every": 2, "layers": ["head"]}),
}
"""What takes another way through a method than ``MORE`` does."""
INITIALIZATIONS = ("he", "xavier", "lecun", "orthogonal", "truncated_normal")
PICTURED: dict[str, Any] = {
    "data": lehr.Data(
        train=(torch.randn(24, 1, 8, 8), torch.arange(24) % 3),
        val=(torch.randn(6, 1, 8, 8), torch.arange(6) % 3),
        batch_size=8,
    ),
    "steps": 4,
}


class Pictured(Settings):
    """Makes a small network for pictures."""

    def build(self, facts: Any) -> nn.Module:
        return ConvNetSettings(width=4).build({"channels": 1, "num_classes": 3})


def test_every_setting_is_read_by_a_run_that_has_it(tmp_path: Path, reads: Counter[tuple[str, str]]) -> None:
    fields = {(kind.__name__, name) for kind in kinds() for name in get_annotations(kind) if name in kind.model_fields}
    fields -= {("AdamW8bit", name) for name in AdamW8bit.model_fields}  # its package is an extra
    assert {("Recipe", "max_skipped"), ("Muon", "adamw"), ("Stop", "min_steps"), ("Data", "replay")} <= fields
    for name, settings in built_in(tmp_path).items():
        lehr.train(override(RECIPES[name].make()(), settings), run_dir=tmp_path / name)
    ways: dict[str, dict[str, Any]] = {
        "schedule": {"schedule": "constant", "steps": None, "epochs": 0.5},
        "stream": {"data": Data(train={(1.0, 2.0)}, batch_size=1), "model": lambda: nn.Linear(1, 1),
                   "objective": lambda model, batch: (model(batch[0][:, None].float()).sum(), 1), "metrics": (),
                       "evaluate": Evaluate()},
        "samples": on(SAMPLES, batch_size=8, workers=1),
        "distilled": {"objective": Distilled(loss=label_smoothing, val_loss=cross_entropy, teacher=Mlp)},
        "snapshots": {"save": Save(keep_every=1)},
        "weights": {"weights": tmp_path / "2" / "checkpoints" / "step-00000002"},
    }  # fmt: skip
    ways |= {
        f"optimizer {name}": {"optim": OPTIMIZERS[name].make(rules=RULES, **OF_SMALL_MODELS.get(name, {}))}
        for name in OPTIMIZERS
        if name != "adamw_8bit"
    }
    ways |= {f"schedule {text}": {"schedule": text, "steps": 8} for text in SCHEDULE_TEXTS}
    ways["noam"] = {"schedule": "noam(d_model=64, warmup=2)", "optim": AdamW(lr=1.0)}
    ways["function"] = {"schedule": Warmup(length=1).then(lambda step: 1.0)}
    ways["plateau"] = {"schedule": Plateau(patience=0, threshold=10.0), "evaluate": Evaluate(every=1), "steps": 4}
    ways |= {
        f"rule {rule}": {"model": Initialized(model=Pictured(), rule=rule), **PICTURED} for rule in INITIALIZATIONS
    }
    ways |= {
        f"method {name}": {"model": Pictured(), "methods": (METHODS[name].make(**MORE.get(name, {})),), **PICTURED}
        for name in METHODS
    }
    ways |= {
        way: {"model": Pictured(), "methods": (METHODS[name].make(**given),), **PICTURED}
        for way, (name, given) in OTHERWISE.items()
    }
    for place, changes in enumerate(ways.values()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LehrWarning)  # two steps are short for some
            lehr.train(recipe(**{"steps": 2} | changes), run_dir=tmp_path / str(place))
    left = sorted(fields - set(reads))
    assert not left, left


def test_a_setting_that_nothing_reads_is_noticed(tmp_path: Path, reads: Counter[tuple[str, str]]) -> None:
    lehr.train(recipe(steps=2), run_dir=tmp_path / "run")
    assert reads["Recipe", "clip"] and reads["AdamW", "eps"]
    assert not reads["Muon", "momentum"] and not reads["GPTSettings", "width"]


def held_out() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*points(20)), batch_size=5)


def trained_on(train: Any = None, **given: Any) -> dict[str, Any]:
    return {
        "data": Data(train=points() if train is None else train, **{"batch_size": 8} | given),
        "metrics": (),
        "evaluate": Evaluate(),
    }


IDLE: dict[str, tuple[dict[str, Any], str]] = {
    "workers for tensors": (trained_on(workers=2), "workers=2 has no effect on data in memory"),
    "collate for tensors": (trained_on(collate=len), "collate has no effect on data in memory"),
    "a batch size beside a DataLoader": (trained_on(held_out()), "data.batch_size has no effect.*is a DataLoader with its own"),
    "a validation batch size beside a DataLoader": (
        trained_on(val=held_out(), val_batch_size=3), "data.val_batch_size has no effect.*is a DataLoader with its own"),
    "patience without validation": (trained_on() | {"stop": Stop(patience=2)}, "stop.patience need validation data"),
}  # fmt: skip


@pytest.mark.parametrize("case", IDLE)
def test_a_setting_without_an_effect_is_refused(tmp_path: Path, case: str) -> None:
    changes, message = IDLE[case]
    with pytest.raises(SettingError, match=message):
        lehr.train(recipe(**changes), run_dir=tmp_path / "run")


def on(train: Any, **given: Any) -> dict[str, Any]:
    return {"data": Data(train=train, val=points(20), **given)}


SAMPLES = list(zip(*points(), strict=True))


def whole(model: nn.Module, batch: Any, *, seen: list[Any]) -> tuple[Tensor, int]:
    seen.append(batch)
    loss = nn.functional.cross_entropy(model(batch["x"]), batch["label"], reduction="sum")
    return loss, len(batch["x"])


BATCHES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "tensors": lambda columns: {name: c for name, c in columns.items() if isinstance(c, Tensor)},
    "samples": lambda columns: [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_nothing_is_removed_from_a_batch(tmp_path: Path, kind: str, accumulate: int) -> None:
    """Keys that neither the model nor the loss takes, and values that are no tensors, arrive as they were given."""
    x, label = points(12)
    columns = {"x": x, "label": label, "id": torch.arange(12), "name": [f"sample {i}" for i in range(12)]}
    given, seen = BATCHES[kind](columns), list[Any]()

    def objective(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        return whole(model, batch, seen=seen)

    made = recipe(
        data=Data(train=given, batch_size=6), objective=objective, metrics=(), steps=2, accumulate=accumulate, evaluate=Evaluate(),
        model=functools.partial(Mlp, dropout=0.0),
    )  # fmt: skip
    lehr.train(made, run_dir=tmp_path / "run")
    trained = seen[1:]  # the first is a look at the data
    assert len(trained) == 2 * accumulate
    for batch in trained:
        assert list(batch) == (["x", "label", "id"] if kind == "tensors" else list(columns))
        assert torch.equal(batch["x"], x[batch["id"]]) and torch.equal(batch["label"], label[batch["id"]])
        if kind == "samples":
            assert batch["name"] == [f"sample {i}" for i in batch["id"].tolist()]
    assert sorted(i for batch in trained for i in batch["id"].tolist()) == list(range(12))


def test_settings_are_written_down_as_they_were(tmp_path: Path) -> None:
    made = recipe(optim=Muon(momentum=0.9), save=Save(every="1 epoch"), steps=2)
    lehr.train(made, run_dir=tmp_path / "run")
    content = json.loads((tmp_path / "run" / "recipe.json").read_text())["fields"]
    assert set(content) == {"kind", *Recipe.model_fields}
    assert (content["optim"]["kind"], content["optim"]["momentum"]) == ("Muon", 0.9)
    assert (content["save"]["every"], content["data"]["val"]) == ("1 epochs", ["torch.Tensor of 20 items"] * 2)
