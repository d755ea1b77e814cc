"""English to Chinese names of languages and territories: the guide's base case of 600 pairs, on CLDR data.

An encoder-decoder Transformer over characters, trained with the right answer fed back, padding left out of the loss.
``lehr eval`` decodes greedily and counts exact matches. `--set data.path=FILE.tsv` takes other pairs.
"""

from __future__ import annotations

import functools

from torch import Tensor, nn

from lehr.data.pairs import PairData
from lehr.losses import Supervised, cross_entropy
from lehr.metrics import Metric
from lehr.models.seq2seq import EOS, PAD, Seq2Seq, Seq2SeqSettings
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate, Recipe
from lehr.schedules import WarmupCosine

__all__ = ["exact_match", "recipe"]


def exact_match(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
    """Return how many targets greedy decoding gives exactly, up to their end, and how many there are."""
    assert isinstance(model, Seq2Seq)
    source, _, target = batch
    made = model.translate(source, longest=target.shape[1])
    made = nn.functional.pad(made, (0, target.shape[1] - made.shape[1]), value=PAD)
    beyond = (made == EOS).cumsum(dim=1) - (made == EOS).int() > 0
    return (made.masked_fill(beyond, PAD) == target).all(dim=1).sum(), len(target)


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        model=Seq2SeqSettings(),
        data=PairData(batch_size=32, val_batch_size=128),
        objective=Supervised(loss=functools.partial(cross_entropy, ignore=PAD), unit="token"),
        metrics=("perplexity", Metric(name="exact_match", of="model", compute=exact_match, goal="max")),
        optim=AdamW(lr=1e-3),
        schedule=WarmupCosine(warmup="5%"),
        epochs=50,
        evaluate=Evaluate(every="5 epochs"),
    )
