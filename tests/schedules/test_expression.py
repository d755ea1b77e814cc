"""Schedules as texts: what is understood, and where an error points."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lehr.base.durations import Duration
from lehr.base.errors import SettingError
from lehr.schedules import (
    SCHEDULES,
    WSD,
    Clipped,
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Repeated,
    Scaled,
    ScheduleSettings,
    StepDecay,
    Then,
    Times,
    Warmup,
    parse,
)
from lehr.schedules.expression import OWN_TIME

UNDERSTOOD: dict[str, ScheduleSettings] = {
    "cosine": Cosine(),
    " cosine ( ) ": Cosine(),
    "warmup(200) then cosine(1800)": Then(parts=(Warmup(length=200), Cosine(length=1800))),
    "warmup(5%) then cosine(floor=0.1)": Then(parts=(Warmup(length="5%"), Cosine(floor=0.1))),
    "warmup(10 epochs)then cosine": Then(parts=(Warmup(length="10 epochs"), Cosine())),
    "warmup('10 epochs')": Warmup(length="10 epochs"),
    'cosine("1B tokens", floor=1e-2)': Cosine(length="1B tokens", floor=0.01),
    "cosine(length=300M tokens)": Cosine(length=Duration(3e8, "tokens")),
    "multi_step(milestones=[30 epochs, '60 epochs',90%], gamma=.5)": MultiStep(
        milestones=["30 epochs", "60 epochs", "90%"], gamma=0.5
    ),
    "step(every=30 epochs, gamma=0.1)": StepDecay(every="30 epochs", gamma=0.1),
    "wsd(decay=10%, form=1-sqrt)": WSD(decay="10%", form="1-sqrt"),
    "one_cycle(three_phase=true, cycle_momentum=[0.8, 0.9])": OneCycle(three_phase=True, cycle_momentum=(0.8, 0.9)),
    "one_cycle(cycle_momentum=none)": OneCycle(),
    "plateau(monitor=accuracy, mode=max)": Plateau(monitor="accuracy", mode="max"),
    "cosine times exponential": Times(parts=(Cosine(), Exponential())),
    "warmup(9) then cosine times cyclic(up=3)": Then(parts=(Warmup(length=9), Times(parts=(Cosine(), Cyclic(up=3))))),
    "(warmup(9) then cosine) times cyclic(up=3)": Times(parts=(Then(parts=(Warmup(length=9), Cosine())), Cyclic(up=3))),
    "a then b".replace("a", "linear(5)").replace("b", "constant then") + " cosine": Then(
        parts=(Linear(length=5), Constant(), Cosine())
    ),
    "scaled(cosine, 0.5)": Scaled(schedule=Cosine(), factor=0.5),
    "repeated(cosine(100), times=3)": Repeated(schedule=Cosine(length=100), times=3),
    "repeated(warmup(10) then cosine(90), 3, length=50%)": Repeated(
        schedule=Then(parts=(Warmup(length=10), Cosine(length=90))), times=3, length="50%"
    ),
    "clipped(schedule=scaled(linear, 2), high=0.9)": Clipped(schedule=Scaled(schedule=Linear(), factor=2), high=0.9),
    "clipped((cosine), 0.1, 0.9) then constant": Then(
        parts=(Clipped(schedule=Cosine(), low=0.1, high=0.9), Constant())
    ),
}


@pytest.mark.parametrize("text", UNDERSTOOD)
def test_is_understood(text: str) -> None:
    assert parse(text) == UNDERSTOOD[text]


def test_each_schedule_takes_its_length_without_a_name_or_says_what_to_write() -> None:
    stretched = [name for name in SCHEDULES if name not in OWN_TIME]
    assert stretched == [
        *("constant", "warmup_cosine", "warmup_linear", "cosine", "linear", "polynomial", "one_cycle", "warmup", "wsd")
    ]
    for name in stretched:
        assert parse(f"{name}(20)") == SCHEDULES[name].make(length=20)
    for name, field in OWN_TIME.items():
        assert field in SCHEDULES[name].make.model_fields
        assert parse(f"{name}(length=20)") == SCHEDULES[name].make(length=20)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_name_is_understood(name: str) -> None:
    assert parse(name) == SCHEDULES[name].make() == parse(f"({name}())")


REFUSED: dict[str, tuple[str, int]] = {
    "warmup(200) then cosin": ("unknown schedule 'cosin' (did you mean 'cosine'?), in column 18", 17),
    "repeted(cosine, 3)": ("unknown schedule 'repeted' (did you mean 'repeated'?), in column 1", 0),
    "warmup(200) than cosine": ("'than' is not expected here (did you mean 'then'?)", 12),
    "warmup(200) then": ("a schedule is missing, in column 17", 16),
    "then cosine": ("'then' stands between two schedules, such as 'warmup then cosine'", 0),
    "warmup(200": ("',' is missing", 10),
    "(warmup(200) then cosine": ("')' is missing", 24),
    "cosine)": ("')' is not expected here", 6),
    "cosine(flor=0.1)": ("Cosine has no field 'flor' (did you mean 'floor'?)", 0),
    "cosine then linear(end=-1)": ("Linear: end='-1' is refused", 12),
    "cosine(10, 20)": ("cosine takes 1 without a name: length; name the others", 11),
    "cosine(length=10, length=20)": ("length is given twice", 18),
    "cosine(10, length=20)": ("length is given twice", 11),
    "cosine(floor=)": ("a value is missing", 13),
    "cosine(10 parsecs)": ("'10 parsecs' is not a duration", 0),
    "warmup(form=exponential)": ("cannot rise from 0", 0),
    "scaled(cosine)": ("Scaled needs 'factor', which was not given", 0),
    "scaled(0.5, cosine)": ("a schedule is missing", 7),
    "cosine + linear": ("'+' is not expected here", 7),
    "": ("a schedule is missing, in column 1", 0),
    "   ": ("a schedule is missing", 3),
    "noam(length=100) then cosine": ("cannot follow one another", 0),
    "warmup(5) then step(30)": (
        "step takes nothing without a name: 30 may be meant as every or as length; write step(every=30) or "
        "step(length=30), in column 21",
        20,
    ),
    "step(30 epochs, gamma=0.5)": ("write step(every=30 epochs) or step(length=30 epochs)", 5),
    "multi_step([30, 60])": ("write multi_step(milestones=[30, 60]), in column 12", 11),
    "multi_step(30)": ("write multi_step(milestones=[30]) or multi_step(length=30)", 11),
    "exponential(500)": ("write exponential(every=500) or exponential(length=500)", 12),
    "annealing(1 epoch)": ("write annealing(every=1 epoch) or annealing(length=1 epoch)", 10),
    "cyclic(100)": ("write cyclic(up=100) or cyclic(length=100)", 7),
    "cosine_restarts(25%)": ("write cosine_restarts(period=25%) or cosine_restarts(length=25%)", 16),
    "inverse_sqrt(100)": ("write inverse_sqrt(warmup=100) or inverse_sqrt(length=100)", 13),
    "noam(4000)": ("write noam(warmup=4000) or noam(length=4000)", 5),
    "plateau(5)": ("write plateau(patience=5) or plateau(length=5)", 8),
    "cosine(1e400)": ("is no duration; its number is finite", 0),
    "COSINE then linear": ("unknown schedule 'COSINE' (did you mean 'cosine'?)", 0),
}


@pytest.mark.parametrize("text", REFUSED)
def test_an_error_points_at_its_place(text: str) -> None:
    message, place = REFUSED[text]
    with pytest.raises(SettingError) as caught:
        parse(text)
    why, shown, caret = str(caught.value).rsplit("\n", 2)
    assert message in f"{why}\n"
    assert shown == f"  {text}"
    assert caret == f"  {' ' * place}^"


def test_a_single_unknown_word_lists_the_names() -> None:
    with pytest.raises(SettingError, match=r"unknown schedule 'cosin' \(did you mean 'cosine'\?\); known: constant, "):
        parse("cosin")


@given(st.text(alphabet="costhenwarmupi()[],=.0123456789% '\"", max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_schedule_or_a_clear_error(text: str) -> None:
    try:
        found: Any = parse(text)
    except SettingError as error:
        assert str(error)
    else:
        assert isinstance(found, ScheduleSettings)
