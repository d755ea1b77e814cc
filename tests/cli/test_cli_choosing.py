"""What the guide advises for which situation, written out here, is what `lehr list --help-me-choose` says."""

from __future__ import annotations

import pytest
from commands import lehr


def choices(kind: str) -> dict[str, str]:
    """Return name -> situation, as the command gives them."""
    done = lehr("list", kind, "--help-me-choose", "--json")
    assert done.code == 0
    texts: dict[str, str] = done.json[kind]
    return texts


def named(kind: str, words: str) -> set[str]:
    """Return the names whose situation holds these words."""
    return {name for name, text in choices(kind).items() if words in text}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("predict numbers", {"mse", "mae"}),  # regression
        ("decide yes or no", {"bce", "binary_focal_loss"}),  # binary
        ("choose one of several classes", {"cross_entropy", "label_smoothing", "focal_loss"}),
        ("next token", {"cross_entropy"}),
    ],
)
def test_a_task_has_its_losses(words: str, names: set[str]) -> None:
    """The guide's four are among them: MSE and MAE, binary cross entropy, cross entropy."""
    assert named("losses", words) == names


def test_the_two_losses_for_numbers_differ_in_what_outliers_do() -> None:
    assert named("losses", "large errors are the worst") == {"mse"}
    assert named("losses", "outliers that must not rule") == {"mae"}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("baseline to compare with", "step"),
        ("baseline to compare with", "multi_step"),
        ("the best result of a run of known length", "cosine"),
        ("the best result of a short run", "one_cycle"),
        ("first steps diverge: put it before any other", "warmup"),
        ("validation data to say when the rate falls", "plateau"),
        ("Transformer for an unknown length", "inverse_sqrt"),
        ("of a Transformer above all", "warmup_cosine"),
    ],
)
def test_a_situation_has_its_schedule(words: str, name: str) -> None:
    """Baseline, best result, unstable start, by itself, Transformer: the guide's five rows."""
    assert words in choices("schedules")[name]


def test_no_other_schedule_is_named_for_these_situations() -> None:
    assert named("schedules", "baseline") == {"step", "multi_step"}
    assert named("schedules", "diverge") == {"warmup"}
    assert named("schedules", "validation") == {"plateau"}
    assert named("schedules", "Transformer") == {"warmup_cosine", "inverse_sqrt", "noam"}
    assert named("schedules", "best result") == {"warmup_cosine", "warmup_linear", "cosine", "one_cycle"}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("quick experiment", {"adam"}),
        ("do not know where to start", {"adamw"}),
        ("best generalization", {"sgd"}),
        ("on pictures", {"sgd"}),
        ("train a Transformer", {"adamw", "muon"}),
        ("pretrained", {"adamw"}),
        ("sparse data", {"adagrad", "rmsprop"}),
    ],
)
def test_a_situation_has_its_optimizer(words: str, names: set[str]) -> None:
    """Quick: Adam; pictures and generalization: SGD with momentum; Transformers: AdamW; sparse: Adagrad, RMSprop.

    Where the guide names Adam for beginners here and AdamW there, AdamW is what a recipe has; without decay they are
    one.
    """
    assert named("optimizers", words) == names


def test_adamw_is_the_first_choice_and_stands_first() -> None:
    texts = choices("optimizers")
    assert next(iter(texts)) == "adamw"
    assert texts["adamw"].startswith("train a Transformer")
    assert "the first choice for Transformers" in lehr("list", "optimizers").out
