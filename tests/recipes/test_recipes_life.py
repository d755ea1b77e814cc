"""Each built-in recipe in a short form: trained, evaluated, sampled, reported and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Done, lehr
from helpers import records
from PIL import Image

from lehr.recipes.gpt2_124m import recipe as gpt2_recipe
from lehr.recipes.table import RECIPES
from lehr.run.recipe import Recipe

WORDS = "The glass is heated, held and cooled; it does not crack. Ünïcödé too.\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with data for each recipe."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    (tmp_path / "text.txt").write_text(WORDS * 80)
    pairs = [(f"word {i}", f"Wort {i * i}") for i in range(60)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{one}\t{other}\n" for one, other in pairs))
    (tmp_path / "pairs.json").write_text(json.dumps([{"en": one, "de": other} for one, other in pairs]))
    generator.integers(0, 300, 6000).astype(np.uint16).tofile(tmp_path / "tokens.bin")
    generator.integers(0, 300, 600).astype(np.uint16).tofile(tmp_path / "held_out.bin")
    for shade, name in enumerate(("dark", "light")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for place in range(12):
            pixels = generator.integers(120 * shade, 120 * shade + 100, (20, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{place}.png")
    return tmp_path


GPT = "model.width=16 model.depth=1 model.heads=2 data.context=16 steps=8 save.every=4 evaluate.every=4"
PAIRS = "model.width=16 model.depth=1 model.heads=2 data.batch_size=16 steps=8 save.every=4 evaluate.every=4"
LOW = "methods.0.batches=2 methods.0.allowed=9 methods.0.layers="
LIVES: dict[str, tuple[str, str, set[str], str | None]] = {
    "gpt-text": ("gpt-text", f"data.path=text.txt {GPT}", {"bits_per_byte"}, "The glass"),
    "characters": ("gpt-text", f"data.path=text.txt data.tokens=char {GPT}", {"bits_per_byte"}, "Ünï"),
    "digits": ("digits", "steps=8 save.every=4 evaluate.every=4 model.width=4", {"accuracy"}, None),
    "digits-mixup": (
        "digits-mixup",
        "steps=8 save.every=4 evaluate.every=4 model.width=4",
        {"accuracy", "ema_loss", "ema_accuracy"},
        None,
    ),
    "digits-fast": ("digits-fast", "steps=8 save.every=4 evaluate.every=4 model.width=4", {"accuracy"}, None),
    "digits-one-cycle": ("digits-one-cycle", "steps=8 save.every=4 evaluate.every=4 model.width=4", {"accuracy"}, None),
    "digits-pretrain": ("digits-pretrain", "steps=8 save.every=4 evaluate.every=4 model.width=4", {"accuracy"}, None),
    "digits-distill": ("digits-distill", "steps=8 save.every=4 evaluate.every=4", {"accuracy"}, None),
    "digits-transfer": (
        "digits-transfer",
        "steps=8 save.every=4 evaluate.every=4 methods.0.every=2",
        {"accuracy"},
        None,
    ),
    "gpt-fast": ("gpt-fast", f"data.path=text.txt schedule.warmup=1 {GPT}", {"bits_per_byte"}, "The glass"),
    "gpt-wsd": ("gpt-wsd", f"data.path=text.txt schedule.warmup=1 {GPT}", {"bits_per_byte"}, "The glass"),
    "gpt-text-lowrank": (
        "gpt-text-lowrank",
        f'data.path=text.txt model.heads=2 {GPT} {LOW}["*.up","*.down"]',
        {"bits_per_byte"},
        "The glass",
    ),
    "pairs.tsv": ("translate", f"data.path=pairs.tsv {PAIRS}", {"perplexity"}, "word 3"),
    "pairs.json": ("translate", f"data.path=pairs.json {PAIRS}", {"perplexity"}, "word 3"),
    "translate-lowrank": (
        "translate-lowrank",
        f'data.path=pairs.tsv {PAIRS} {LOW}["*.linear1","*.linear2"] methods.0.at=4',
        {"perplexity"},
        "word 3",
    ),
    "images": (
        "images",
        "data.path=pictures data.size=16 data.batch_size=8 model.width=4 model.blocks=1 steps=8 save.every=4",
        {"accuracy"},
        None,
    ),
    "gpt2-124m": (
        "gpt2-124m",
        f"data.path=tokens.bin data.val_path=held_out.bin data.vocab_size=300 data.batch_size=8 accumulate=2 "
        f"schedule.warmup=2 precision=fp32 {GPT}",
        {"perplexity"},
        None,
    ),
}


def train(recipe: str, settings: str) -> Done:
    options = [word for setting in settings.split() for word in ("--set", setting)]
    return lehr("train", recipe, "--run", "run", "--json", *options)


@pytest.mark.parametrize("life", LIVES)
def test_a_whole_life(here: Path, life: str) -> None:
    recipe, settings, metrics, prompt = LIVES[life]
    trained = train(recipe, settings)
    assert trained.code == 0, trained
    assert (trained.json["step"], trained.json["stopped"]) == (8, "finished")
    assert trained.json["metrics"].keys() == metrics
    assert 0 < trained.json["train_loss"] < 20 and 0 < trained.json["best_val_loss"] < 10
    assert {record["split"] for record in records(here / "run")} == {"train", "val"}

    last = lehr("eval", "run", "--json", "--checkpoint", "last").json
    assert last["metrics"]["loss"] == pytest.approx(trained.json["val_loss"], rel=1e-6)
    assert last["metrics"].keys() >= metrics | {"loss"}
    assert ("exact_match" in last["metrics"]) == recipe.startswith("translate")

    sampled = lehr("sample", "run", "--json", "--length", "12", *(["--prompt", prompt] if prompt else []))
    if prompt is None:
        assert sampled.code == 2 and "cannot be sampled from" in sampled.json["error"]
    else:
        assert sampled.code == 0 and isinstance(sampled.json["text"], str)
        again = lehr("sample", "run", "--json", "--length", "12", "--prompt", prompt)
        assert again.json == sampled.json, "a sample follows from its seed"

    resumed = lehr("resume", "run", "--json", "--set", "steps=12")
    assert (resumed.code, resumed.json["step"], resumed.json["stopped"]) == (0, 12, "finished")
    assert lehr("report", "run", "--json").json["report"] == "run/report.html"
    assert "<!doctype html>" in (here / "run" / "report.html").read_text()


def test_every_recipe_of_the_table_lives(here: Path) -> None:
    assert {recipe for recipe, *_ in LIVES.values()} == set(RECIPES)
    for name in RECIPES:
        assert isinstance(RECIPES[name].make()(), Recipe)


def test_samples_of_text_continue_the_prompt_with_known_characters(here: Path) -> None:
    train(*LIVES["characters"][:2])
    done = lehr("sample", "run", "--prompt", "glass", "--length", "30", "--temperature", "0")
    assert done.out.startswith("glass")
    assert set(done.out) <= set(WORDS)
    refused = lehr("sample", "run", "--prompt", "glass~", "--json")
    assert refused.code == 2
    assert refused.json["error"].startswith(
        "the text has '~', which the training text does not have; known characters:"
    )


def test_a_translation_needs_a_prompt_that_is_short_enough(here: Path) -> None:
    train(*LIVES["pairs.tsv"][:2])
    assert "give --prompt TEXT" in lehr("sample", "run").err
    assert "made for at most 7" in lehr("sample", "run", "--prompt", "word number").err
    assert lehr("sample", "run", "--prompt", "Ω").code == 0, "a character that is not known has an id of its own"


def test_the_compressors_are_compared_on_the_same_text(here: Path) -> None:
    content = train(*LIVES["gpt-text"][:2]).json
    assert content["compressors"].keys() == {"gzip", "xz", "xz_after_training_text"}
    assert len(content["sample"]) > 0


def test_gpt2_124m_has_the_published_number_of_parameters() -> None:
    recipe = gpt2_recipe()
    with torch.device("meta"):
        model = recipe.model.build({"vocab_size": recipe.data.vocab_size, "context": recipe.data.context})
    width, depth = 768, 12
    block = (
        (2 * width) * 2 + (width * 3 * width + 3 * width) + (width * width + width) + (8 * width * width + 5 * width)
    )
    assert sum(p.numel() for p in model.parameters()) == 50257 * width + 1024 * width + depth * block + 2 * width
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert model.head.weight is model.tokens.weight
    decayed, free = recipe.optim.build(model)[0].param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert sum(p.numel() for p in decayed["params"]) == depth * 12 * width * width
    assert recipe.data.batch_size * recipe.data.context == 524_288


def test_gpt2_starts_as_published() -> None:
    model: Any = (
        gpt2_recipe()
        .model.model_copy(update={"width": 96, "depth": 2, "heads": 2})
        .build({"vocab_size": 500, "context": 32})
    )
    assert float(model.tokens.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    for block in model.blocks:
        assert float(block.qkv.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        for branch in (block.out, block.down):
            assert float(branch.weight.detach().std()) == pytest.approx(0.02 / (2 * 2) ** 0.5, rel=0.05)
            assert not branch.bias.any()
    loss = torch.nn.functional.cross_entropy(model(torch.arange(32)[None])[0], torch.arange(100, 132))
    assert float(loss.detach()) == pytest.approx(np.log(500), rel=0.05)
