"""The layers that a run puts in the place of others: one way to exchange them, and what a checkpoint says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base.errors import CheckpointError, LehrError, SettingError
from lehr.lowrank import LoRALinear, LowRankLinear, described, exchange, rebuilt
from lehr.optim.exchange import exchange_parameters

__all__ = ["Structure", "rebuild"]

_AS_DENSE: dict[str, Any] = {"frobenius": False, "factor_rate": 1.0}
"""How a layer is trained if nothing else is said."""


class Structure:
    """Exchanges layers of a model that is in training: in the model, in its optimizers, and for all that hold them.

    Its state says which layers are not those that the recipe's model begins with, so that a resumed run has them before
    anything else is loaded.

    >>> from lehr.lowrank import LowRankLinear
    >>> model = nn.Sequential(nn.Linear(40, 40, bias=False))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> Structure(model, [optimizer]).put({"0": LowRankLinear(40, 40, 3, bias=False)})
    >>> [tuple(p.shape) for p in optimizer.param_groups[0]["params"]]
    [(40, 3), (40, 3)]
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self._followers: list[Callable[[], None]] = []
        self._changed_by: list[str] = []
        self._held_by: list[str] = []
        self._how: dict[str, dict[str, Any]] = {}
        self._frozen: set[str] = set()
        self._first = [group for optimizer in optimizers for group in optimizer.param_groups]

    @property
    def changes(self) -> bool:
        """Whether any part of the run may exchange layers."""
        return bool(self._changed_by)

    def change(self, by: str) -> None:
        """Announce the method that will exchange layers; refused beside one that holds parameters for the whole run."""
        self._changed_by.append(by)
        self._check()

    def hold(self, by: str) -> None:
        """Announce what holds parameters for the whole run; refused beside one that will exchange them."""
        self._held_by.append(by)
        self._check()

    def _check(self) -> None:
        if len(self._changed_by) > 1:
            raise SettingError(f"{' and '.join(self._changed_by)} each exchange layers of the model; use one of them")
        if self._changed_by and self._held_by:
            raise SettingError(
                f"{self._changed_by[0]} puts other parameters in the place of those that {self._held_by[0]} holds for "
                "the whole run; leave one of the two out"
            )

    def follow(self, call: Callable[[], None]) -> None:
        """Have ``call()`` made after each exchange: for what holds parameters, and can take hold of others."""
        self._followers.append(call)

    def put(
        self,
        layers: Mapping[str, nn.Module],
        states: Mapping[str, dict[str, Any]] | None = None,
        *,
        frobenius: bool = False,
        factor_rate: float = 1.0,
    ) -> None:
        """Put each module in the place of the one of that name; new parameters join the groups of those that go.

        ``states`` has the optimizer's state of new parameters, by name; others begin with none. With ``frobenius`` the
        matrices are decayed through their product, by `lehr.optim.exchange.decay_products`, and not by the optimizer;
        ``factor_rate`` multiplies the rates of factors.
        """
        if not layers:
            return
        how = {"frobenius": frobenius, "factor_rate": factor_rate}
        for name, layer in layers.items():
            before = dict(self._model.get_submodule(name).named_parameters())
            exchange(self._model, name, layer)
            factors = isinstance(layer, LowRankLinear)
            after = dict(layer.named_parameters())
            exchange_parameters(
                self._optimizers, before, after, factors=factors, frobenius=frobenius, factor_rate=factor_rate
            )
            self._how[name] = how
        self._sort()
        parameters = dict(self._model.named_parameters())
        for name, state in (states or {}).items():
            for optimizer in self._optimizers:
                if any(parameters[name] is p for group in optimizer.param_groups for p in group["params"]):
                    optimizer.state[parameters[name]] = state
        for call in self._followers:
            call()

    def _sort(self) -> None:
        """Put parameters and new groups in the model's order, and not in that of the exchanges.

        A resumed run makes all exchanges at once, and what follows the order, such as the last bits of a norm, must not
        tell.
        """
        place = {id(p): index for index, p in enumerate(self._model.parameters())}
        first = {id(group) for group in self._first}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["params"].sort(key=lambda p: place[id(p)])
            optimizer.param_groups.sort(key=lambda g: -1 if id(g) in first else place[id(g["params"][0])])

    def freeze(self, names: Sequence[str]) -> None:
        """Train these parameters no longer, and leave them out of checkpoints: they are what the run began with."""
        parameters = {name: self._model.get_parameter(name).requires_grad_(False) for name in names}
        exchange_parameters(self._optimizers, parameters, {})
        self._frozen |= set(names)

    def left_out(self) -> list[str]:
        """Return the names of the parameters that are not in checkpoints: frozen ones, and what LoRA pairs stand by."""
        bases = {
            f"{name}.base.{of}"
            for name, module in self._model.named_modules()
            if isinstance(module, LoRALinear)
            for of, _ in module.base.named_parameters()
        }
        return sorted(self._frozen | bases)

    def state_dict(self) -> dict[str, Any]:
        """Return what each layer of a kind of lehr's own is, how it is trained, and what a checkpoint leaves out."""
        layers = {
            name: {"layer": description, **self._how.get(name, _AS_DENSE)}
            for name, description in described(self._model).items()
        }
        left_out = self.left_out()
        return {"layers": layers, "left_out": left_out, "sha256": _digest(self._model, left_out)}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Give the model these layers, with weights yet to be loaded; layers that the state does not name are dense."""
        layers, here = state["layers"], described(self._model)
        for name in sorted(here, key=lambda name: -name.count(".")):  # what is within a layer before the layer
            if name not in layers:
                self.put({name: rebuilt(self._model.get_submodule(name), {"kind": "dense"})})
        for name in sorted(layers, key=lambda name: name.count(".")):
            wanted = layers[name]
            how = {key: wanted.get(key, usual) for key, usual in _AS_DENSE.items()}  # older ones say less
            if here.get(name) == wanted["layer"] and self._how.get(name, _AS_DENSE) == how:
                continue
            try:
                layer = rebuilt(self._model.get_submodule(name), wanted["layer"])
            except (AttributeError, LehrError) as error:
                raise CheckpointError(f"the checkpoint's layer {name!r} does not fit the model: {error}") from error
            self.put({name: layer}, **how)
        if state["sha256"] != _digest(self._model, state["left_out"]):
            raise CheckpointError(
                f"the checkpoint holds only what trains, and the {len(state['left_out'])} frozen parameters are not "
                "those that the run began with; give the same weights and seed"
            )


def rebuild(model: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """Give a model that is not in training the layers of a checkpoint; returns which parameters it leaves out.

    ``state`` is what `Structure.state_dict` returned, or empty for a run that exchanged nothing.
    """
    if not state:
        return []
    Structure(model, []).load_state_dict(state)
    return list(state["left_out"])


def _digest(model: nn.Module, names: Sequence[str]) -> str | None:
    """Return a hash of the named parameters; None for none."""
    if not names:
        return None
    digest = hashlib.sha256()
    for name in names:
        value: Tensor = model.get_parameter(name).detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.ndim else value.numpy().tobytes())
    return digest.hexdigest()
