"""Rules that give some parameters another rate or decay, or freeze them; discriminative rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pydantic import Field, model_validator
from torch import nn

from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.base.tables import did_you_mean
from lehr.optim.depth import depths
from lehr.optim.frozen import frozen_norms

__all__ = ["Rule", "Treatment", "discriminative", "freeze", "nearest_part", "treatments"]


class Rule(Settings):
    """What holds for the parameters that all given selectors select. A field that is not given changes nothing.

    Rules apply in their order: where two set the same thing for a parameter, the later one holds.

    >>> Rule(pattern="head.*", rate=10.0).selected(nn.Sequential())
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: Rule(pattern='head.*') selects no parameter of Sequential; its parameters: none
    """

    pattern: str | None = None
    """Selects by the parameter's name, with ``*``, ``?`` and ``[...]``; a tied weight has several names."""
    module: str | None = None
    """Selects by the class of a module that holds the parameter, itself or deeper inside: ``LayerNorm``."""
    depth: tuple[int, int] | None = None
    """Selects by depth (`depths`), from the first number to the last; -1 is the uppermost block."""
    rate: float | None = Field(default=None, gt=0)
    """Multiplies the base rate."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Replaces the weight decay, for biases, norms and embeddings too."""
    frozen: bool | None = None
    """Whether the parameters stay as they are, without gradient and state; False trains what was frozen."""

    @model_validator(mode="after")
    def _check(self) -> Rule:
        if (self.pattern, self.module, self.depth) == (None, None, None):
            raise SettingError('a Rule needs what it selects by: pattern="head.*", module="LayerNorm" or depth=(0, 2)')
        if (self.rate, self.weight_decay, self.frozen) == (None, None, None):
            raise SettingError("a Rule needs what it sets: rate=0.1, weight_decay=0.0 or frozen=True")
        return self

    def selected(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that the rule selects; none is a `SettingError`."""
        names, modules = _names(model), dict(model.named_modules())
        depth_of = depths(model) if self.depth is not None else {}
        top = max(depth_of.values(), default=0)
        if self.depth is not None and not all(-top - 1 <= depth <= top for depth in self.depth):
            raise SettingError(
                f"Rule(depth={self.depth}) goes beyond {type(model).__name__}; its depths: 0 to {top}, or "
                f"{-top - 1} to -1 counted from above"
            )
        first, last = (d if d >= 0 else top + 1 + d for d in self.depth or (0, 0))
        found = [
            name
            for name, known in names.items()
            if (self.pattern is None or any(fnmatchcase(n, self.pattern) for n in known))
            and (self.module is None or any(self.module in _kinds(modules, n) for n in known))
            and (self.depth is None or first <= depth_of[name] <= last)
        ]
        if not found:
            raise SettingError(self._nothing(model, [n for known in names.values() for n in known], top))
        return found

    def _nothing(self, model: nn.Module, names: list[str], top: int) -> str:
        selectors = {"pattern": self.pattern, "module": self.module, "depth": self.depth}
        given = ", ".join(f"{key}={value!r}" for key, value in selectors.items() if value is not None)
        kinds = sorted({type(module).__name__ for module in model.modules()})
        known = {
            "parameters": (self.pattern, names),
            "modules": (self.module, kinds),
            "depths": (self.depth, [f"0 to {top}"]),
        }
        near = did_you_mean(self.module, kinds) if self.module else nearest_part(self.pattern or "", names)
        parts = [f"; its {what}: {_listed(all_of)}" for what, (value, all_of) in known.items() if value is not None]
        return f"Rule({given}) selects no parameter of {type(model).__name__}{near}{''.join(parts)}"


def nearest_part(pattern: str, names: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the first word of a pattern that is part of no name but near to one.

    >>> nearest_part("*.qvk.weight", ["blocks.0.qkv.weight"])
    " (did you mean 'qkv'?)"
    """
    parts = {part for name in names for part in name.split(".")}
    unknown = [word for word in pattern.split(".") if word not in parts and not set(word) & set("*?[")]
    return did_you_mean(unknown[0], sorted(parts)) if unknown else ""


def _names(model: nn.Module) -> dict[str, list[str]]:
    """Return {first name: all names} of each parameter."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    names: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[first[id(parameter)]].append(name)
    return names


def _kinds(modules: Mapping[str, nn.Module], name: str) -> set[str]:
    """Return the names of the classes of all modules around a parameter, and of the classes they derive from."""
    path = name.split(".")[:-1]
    around = [modules[prefix] for end in range(len(path) + 1) if (prefix := ".".join(path[:end])) in modules]
    return {kind.__name__ for module in around for kind in type(module).__mro__}


def _listed(names: Sequence[str]) -> str:
    return (", ".join(names[:8]) + (" ..." if len(names) > 8 else "")) or "none"


@dataclass(frozen=True)
class Treatment:
    """What all rules together say about one parameter."""

    rate: float = 1.0
    weight_decay: float | None = None
    frozen: bool | None = None


def treatments(model: nn.Module, rules: Sequence[Rule]) -> dict[str, Treatment]:
    """Return {parameter name: how it is treated}; the later of two rules holds, field by field.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> rules = [Rule(pattern="*", rate=0.1), Rule(pattern="1.*", rate=5.0), Rule(pattern="*.bias", weight_decay=0.0)]
    >>> treatments(model, rules)["1.bias"]
    Treatment(rate=5.0, weight_decay=0.0, frozen=None)
    """
    found = dict.fromkeys((name for name, _ in model.named_parameters()), Treatment())
    for rule in rules:
        given = {"rate": rule.rate, "weight_decay": rule.weight_decay, "frozen": rule.frozen}
        given = {key: value for key, value in given.items() if value is not None}
        for name in rule.selected(model):
            found[name] = replace(found[name], **given)  # type: ignore[arg-type]
    return found


def freeze(model: nn.Module, rules: Sequence[Rule]) -> None:
    """Set ``requires_grad`` of the parameters that rules freeze, or train, and of no others.

    Norms with running statistics that are frozen by it go into evaluation mode (`frozen_norms`).
    """
    plan = treatments(model, rules)
    before = set(frozen_norms(model))
    for name, parameter in model.named_parameters():
        if (frozen := plan[name].frozen) is not None:
            parameter.requires_grad_(not frozen)
    for norm in frozen_norms(model):
        if norm not in before:
            norm.eval()


def discriminative(rates: Mapping[str, float], otherwise: float) -> tuple[Rule, ...]:
    """Return rules for an optimizer with ``lr=otherwise`` under which each pattern's parameters have their own rate.

    Discriminative rates: low below, where features are general, and high above. Source: Howard and Ruder 2018
    (arXiv 1801.06146). Parameters that no pattern selects are trained too, at ``otherwise``.

    >>> [(rule.pattern, round(rule.rate, 6)) for rule in discriminative({"layer4.*": 1e-4, "fc.*": 1e-3}, 1e-5)]
    [('layer4.*', 10.0), ('fc.*', 100.0)]
    """
    if not otherwise > 0:
        raise SettingError(f"otherwise={otherwise} is the rate of all other parameters; give one above 0")
    return tuple(Rule(pattern=pattern, rate=rate / otherwise) for pattern, rate in rates.items())
