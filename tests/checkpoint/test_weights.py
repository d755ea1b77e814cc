"""Starting from weights that exist: what was loaded is said, and less than everything must have been allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import points, recipe
from torch import Tensor, nn

import lehr
from lehr.base.errors import SettingError
from lehr.checkpoint import CheckpointStore, load_weights
from lehr.run.recipe import Save


class Net(nn.Module):
    def __init__(self, classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.relu(self.body(x))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.outward.weight = self.inward.weight


class Wrapped(nn.Module):
    """A model whose own names begin as a wrapper's do."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(Net().state_dict(), file)
    return file


def renamed(file: Path, change: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Store the file's tensors under other names, or not at all; returns them under their old names."""
    before = safetensors.torch.load_file(file)
    safetensors.torch.save_file({new: t for name, t in before.items() if (new := change(name))}, file)
    return before


def assert_loaded(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


def assert_refused(model: nn.Module, file: Path, message: str, allow: tuple[str, ...] = ()) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SettingError, match=message):
        load_weights(model, file, allow=allow)
    assert_loaded(model, before)


def test_everything_is_loaded_and_counted(file: Path) -> None:
    model = Net()
    line = load_weights(model, file)
    assert line == f"{file}: 9 of 9 tensors loaded, 0 missing or of another shape, 0 unexpected"
    assert_loaded(model, safetensors.torch.load_file(file))


def test_another_head_must_be_allowed(file: Path) -> None:
    message = r"does not fit Net: 7 of 9 tensors loaded, 2 missing or of another shape, 0 unexpected. "
    assert_refused(Net(5), file, message + r"Not loaded: head.weight, head.bias. Name what may differ in weights_allow")
    assert_refused(Net(5), file, "Not loaded: head.bias", allow=("head.weight",))
    model = Net(5)
    assert "7 of 9 tensors loaded, 2 missing" in load_weights(model, file, allow=("head.*",))
    before = safetensors.torch.load_file(file)
    assert_loaded(model, {name: before[name] for name in before if not name.startswith("head")})


@pytest.mark.parametrize("gone", ["body.weight", "norm.running_mean"])
def test_a_missing_tensor_is_named_be_it_a_buffer(file: Path, gone: str) -> None:
    renamed(file, lambda name: name if name != gone else None)
    assert_refused(Net(), file, rf"8 of 9 tensors loaded, 1 missing .* Not loaded: {gone}\.")


def test_an_unexpected_tensor_is_named(file: Path) -> None:
    safetensors.torch.save_file(safetensors.torch.load_file(file) | {"old.weight": torch.ones(2)}, file)
    assert_refused(Net(), file, r"9 of 9 tensors loaded, 0 missing .*, 1 unexpected. Not loaded: old.weight\.")
    assert "9 of 9 tensors loaded" in load_weights(Net(), file, allow=("old.*",))


def test_a_file_of_another_model_is_no_random_start(file: Path) -> None:
    renamed(file, lambda name: f"encoder.{name}")
    assert_refused(Net(), file, "0 of 9 tensors loaded, 9 missing or of another shape, 9 unexpected")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_the_names_of_wrappers_are_left_off(file: Path, prefix: str) -> None:
    before = renamed(file, lambda name: prefix + name)
    model = Net()
    assert "9 of 9 tensors loaded" in load_weights(model, file)
    assert_loaded(model, before)


def test_but_not_where_they_are_the_model_s_own_or_only_some_have_them(file: Path) -> None:
    model = Wrapped()
    safetensors.torch.save_file(Wrapped().state_dict(), file)
    assert "2 of 2 tensors loaded" in load_weights(model, file)
    safetensors.torch.save_file({"module.weight": torch.ones(2, 2), "bias": torch.ones(2)}, file)
    assert_refused(nn.Linear(2, 2), file, "Not loaded: weight, module.weight")


@pytest.mark.parametrize("name", ["inward.weight", "outward.weight"])
def test_a_tied_weight_may_be_stored_under_any_of_its_names(tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file({name: torch.full((5, 3), 7.0)}, tmp_path / "w")
    model = Tied()
    assert "2 of 2 tensors loaded" in load_weights(model, tmp_path / "w")
    assert model.outward.weight is model.inward.weight
    assert model.inward.weight.unique().tolist() == [7.0]


@pytest.mark.parametrize(
    "content", [None, b"", b"not safetensors", b"\x80\x04K\x01."], ids=["none", "empty", "text", "pickle"]
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(SettingError, match="weights='.*w.pt' cannot be read as safetensors: "):
        load_weights(Net(), tmp_path / "w.pt")


def test_a_run_starts_from_them_and_says_so(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = "7 of 9 tensors loaded, 2 missing or of another shape, 0 unexpected"
    made = recipe(
        model=lambda: Net(5), weights=file, weights_allow=("head.*",), steps=4, save=Save(every=2),
        data=lehr.Data(train=points(classes=4), val=points(20), batch_size=8),
    )  # fmt: skip
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    assert torch.equal(trainer.model.body.weight, safetensors.torch.load_file(file)["body.weight"])
    for place, batch in enumerate(trainer.batches()):
        trainer.step(batch)
        if place == 2:
            break
    said = capsys.readouterr()
    assert f"{file}: {counts}" in said.err
    assert said.out == ""

    file.unlink()  # going on needs the checkpoint only
    assert lehr.resume(tmp_path / "run", recipe=made).step == 4
    assert "tensors loaded" not in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["weights"] == f"{file}: {counts}"
    assert counts in (tmp_path / "run" / "report.html").read_text()


def test_a_run_starts_from_a_checkpoint_of_another(tmp_path: Path) -> None:
    first = lehr.train(recipe(steps=5), run_dir=tmp_path / "first")
    found = tmp_path / "first" / "checkpoints" / "step-00000005"
    second = lehr.Trainer(recipe(weights=found, seed=3), run_dir=tmp_path / "second")
    assert first.model is not None
    assert_loaded(second.model, dict(first.model.state_dict()))


def test_other_weights_cannot_be_asked_for_on_the_way(tmp_path: Path, file: Path) -> None:
    lehr.train(recipe(steps=3, model=Net), run_dir=tmp_path / "run")
    with pytest.raises(SettingError, match="weights has no effect on a run that has a checkpoint"):
        lehr.resume(tmp_path / "run", recipe=recipe(steps=3, model=Net), overrides=[f"weights={file}", "steps=6"])


class Remembering(Net):
    """With state beside its tensors, and a tensor in it."""

    def get_extra_state(self) -> dict[str, object]:
        return {"n": 3, "seen": torch.ones(2)}

    def set_extra_state(self, state: object) -> None:
        pass


def test_extra_state_is_no_weight(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    path = store.save(1, {"model": Remembering().state_dict()})
    model = Remembering()
    line = load_weights(model, path)
    assert line.endswith("0 unexpected, the model's extra state left as it is")
    saved = safetensors.torch.load_file(path / "model.safetensors")
    assert_loaded(model, {name: tensor for name, tensor in saved.items() if "extra" not in name})


def test_what_is_to_be_left_stays_as_the_model_has_it(file: Path) -> None:
    torch.manual_seed(1)
    model = Net()
    head = model.head.weight.detach().clone()
    line = load_weights(model, file, leave=["head.*"])
    assert line.endswith(
        "7 of 7 tensors loaded, 0 missing or of another shape, 0 unexpected, 2 left as the model has them"
    )
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.body.weight, safetensors.torch.load_file(file)["body.weight"])
    load_weights(Net(classes=9), file, leave=["head.*"])
    with pytest.raises(SettingError, match=r"weights_leave='hat\.\*' matches no tensor of Net; it has: body.weight"):
        load_weights(model, file, leave=["hat.*"])


def test_a_run_starts_from_the_newest_checkpoint_of_another(tmp_path: Path) -> None:
    first = lehr.train(recipe(model=Net, steps=4, save=Save(every=2)), run_dir=tmp_path / "first")
    assert first.model is not None
    for weights in (tmp_path / "first", lambda: tmp_path / "first"):
        trainer = lehr.Trainer(recipe(model=Net, weights=weights, weights_leave=("head.*",), steps=4))
        assert torch.equal(trainer.model.body.weight, first.model.body.weight)
        assert not torch.equal(trainer.model.head.weight, first.model.head.weight)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "empty" / "recipe.json").write_text("{}")
    with pytest.raises(SettingError, match="is a run without a checkpoint"):
        lehr.Trainer(recipe(model=Net, weights=tmp_path / "empty"))
