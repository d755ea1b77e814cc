"""What this version makes is what earlier ones made: a stored loss curve, and a stored checkpoint of format 1.

To make the curve anew, after a change that is meant to alter it::

    python tests/golden/test_golden.py curve

The checkpoint is never made anew: it stands for those that users have. One of a later format is put beside it::

    python tests/golden/test_golden.py checkpoint
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import lehr
from lehr.base.errors import LehrError, SettingError
from lehr.checkpoint import CheckpointStore
from lehr.checkpoint.files import hash_file
from lehr.checkpoint.store import FORMAT
from lehr.losses import Supervised, cross_entropy
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate, Recipe, Save, Track
from lehr.schedules import WarmupCosine

HERE = Path(__file__).parent
CURVE = HERE / "curve.json"
STEP, STEPS = 3, 8
CHECKPOINT = HERE / "checkpoint-v1" / f"step-{STEP:08d}"
EXPECTED = HERE / "checkpoint-v1" / "expected.json"
PICKLE = b"cbuiltins\nopen\n(S'executed'\nS'w'\ntR."
"""Makes the file ``executed`` when it is unpickled."""


class Net(nn.Module):
    """With a tied weight, buffers of two types, dropout, and a parameter that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.1)
        self.scale = nn.Parameter(torch.ones(4), requires_grad=False)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.table(ids) * self.scale)))


def tokens(n: int) -> tuple[Tensor, Tensor]:
    """Return ids and those that follow them, made with integers only, so that no machine rounds them."""
    ids = torch.arange(n) ** 2 % 6
    return ids, (ids * 5 + 1) % 6


def recipe(steps: int = STEPS, **changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "model": Net,
        "data": lehr.Data(train=tokens(40), val=tokens(17), batch_size=8),
        "objective": Supervised(loss=cross_entropy),
        "optim": AdamW(lr=0.05),
        "schedule": WarmupCosine(warmup=2, floor=0.1),
        "steps": steps,
        "threads": 1,
        "device": "cpu",
        "evaluate": Evaluate(every=STEP),
        "save": Save(every=STEP),
        "track": Track(every=100),
    }
    return Recipe(**fields | changes)


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def curve(folder: Path) -> dict[str, list[float]]:
    lehr.train(recipe(steps=30, track=Track(every=1), evaluate=Evaluate(every=10)), run_dir=folder / "curve")
    found = records(folder / "curve")
    train, val = ([record for record in found if record["split"] == split] for split in ("train", "val"))
    return {
        "loss": [record["loss"] for record in train],
        "grad_norm": [record["grad_norm"] for record in train],
        "lr": [record["lr"] for record in train],
        "val_loss": [record["loss"] for record in val],
    }


def test_the_stored_curve(tmp_path: Path) -> None:
    """The tolerance is for processors whose kernels round in another order."""
    stored, found = json.loads(CURVE.read_text()), curve(tmp_path)
    assert found.keys() == stored.keys()
    for name in found:
        assert found[name] == pytest.approx(stored[name], rel=1e-4), name
    assert min(found["loss"]) < 0.5 * found["loss"][0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of this version whose only checkpoint is the stored one."""
    run = tmp_path / "run"
    for place, batch in enumerate((trainer := lehr.Trainer(recipe(), run_dir=run)).batches()):
        trainer.step(batch)
        if place == STEP:
            break
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(CHECKPOINT, run / "checkpoints" / CHECKPOINT.name)
    return run


def test_its_files_are_those_that_were_stored() -> None:
    found = CheckpointStore(CHECKPOINT.parent).newest()
    assert found is not None and found.step == STEP and found.manifest["format"] == 1 <= FORMAT
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 8000


def test_its_weights_are_read_with_lehr_and_with_nothing_but_torch(tmp_path: Path) -> None:
    expected = {name: torch.tensor(value) for name, value in json.loads(EXPECTED.read_text())["weights"].items()}
    parts = CheckpointStore(CHECKPOINT.parent).read(CheckpointStore(CHECKPOINT.parent).newest())  # type: ignore[arg-type]
    assert parts["model"].keys() == expected.keys() == Net().state_dict().keys()
    for name, tensor in parts["model"].items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-7, check_dtype=False)
    assert parts["model"]["norm.num_batches_tracked"].dtype == torch.int64
    model = lehr.Trainer(recipe(weights=CHECKPOINT), run_dir=tmp_path / "run").model
    assert torch.equal(model.head.weight, parts["model"]["table.weight"])

    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    code = (
        "import sys\nfor name in ('lehr', 'safetensors', 'numpy'): sys.modules[name] = None\n"
        f"{text.split('```python')[1].split('```')[0]}\n"
        f"found = read_weights({str(CHECKPOINT / 'model.safetensors')!r})\n"
        "print(json.dumps({name: tensor.tolist() for name, tensor in found.items()}))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    alone = json.loads(done.stdout)
    assert set(expected) - set(alone) == {"head.weight"}, "a tied weight is stored once"
    assert alone == {name: parts["model"][name].tolist() for name in alone}


# the log is this machine's, and a number in it may have a digit less than the one that the checkpoint belongs to
@pytest.mark.filterwarnings("ignore:the last bits may differ", "ignore:.*the records in between are lost")
def test_it_is_gone_on_with_to_the_end(run: Path) -> None:
    """Optimizer state, clock, position in the data and scores are those of the run that wrote it."""
    expected = json.loads(EXPECTED.read_text())
    result = lehr.resume(run, recipe=recipe())
    assert (result.step, result.stopped) == (STEPS, "finished")
    assert result.val_loss == pytest.approx(expected["val_loss"], rel=1e-4)
    assert result.best_val_loss == pytest.approx(expected["best_val_loss"], rel=1e-4)
    assert result.model is not None
    for name, tensor in result.model.state_dict().items():
        torch.testing.assert_close(tensor.double(), torch.tensor(expected["last"][name]).double(), rtol=1e-4, atol=1e-5)
    assert result.model.head.weight is result.model.table.weight
    state = json.loads((run / "checkpoints" / f"step-{STEPS:08d}" / "state.json").read_text())
    assert state["clock"]["samples"] == expected["samples"]
    trained = [record for record in records(run) if record["split"] == "train"]
    assert [record["loss"] for record in trained] == pytest.approx([expected["train_loss"]], rel=1e-4)


@pytest.mark.filterwarnings("ignore:the last bits may differ", "ignore:passed over a damaged checkpoint")
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("disguised", [False, True], ids=["as it is", "with a manifest that fits it"])
def test_a_pickle_in_place_of_a_file_is_never_run(
    run: Path, file: str, disguised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    import pickle

    pickle.loads(PICKLE).close()
    Path("executed").unlink()  # it is a live one
    target = run / "checkpoints" / CHECKPOINT.name / file
    target.write_bytes(PICKLE)
    if disguised and file != "manifest.json":
        manifest = json.loads((target.parent / "manifest.json").read_text())
        manifest["files"][file] = {"bytes": len(PICKLE), "sha256": hash_file(target)}
        (target.parent / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LehrError, match="none of the checkpoints|cannot be read, although"):
        lehr.resume(run, recipe=recipe())
    if file == "model.safetensors":
        with pytest.raises(SettingError, match="cannot be read as safetensors"):
            lehr.Trainer(recipe(weights=target), run_dir=run.parent / "other")
    assert not Path("executed").exists()


def remake_curve() -> None:
    with tempfile.TemporaryDirectory() as folder:
        CURVE.write_text(json.dumps(curve(Path(folder)), indent=1) + "\n")


def make_checkpoint() -> None:
    if CHECKPOINT.exists():
        raise SystemExit(f"{CHECKPOINT} stands for what users have; give the new format a folder of its own")
    with tempfile.TemporaryDirectory() as folder:
        result = lehr.train(recipe(save=Save(every=STEP, keep=9)), run_dir=Path(folder) / "run")
        CHECKPOINT.parent.mkdir()
        shutil.copytree(Path(folder) / "run" / "checkpoints" / CHECKPOINT.name, CHECKPOINT)
    assert result.model is not None
    manifest = json.loads((CHECKPOINT / "manifest.json").read_text())
    for name in ("command", "platform", "processor"):  # nobody's business
        manifest["note"][name] = ""
    (CHECKPOINT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    tensors = safetensors.torch.load_file(CHECKPOINT / "model.safetensors")
    tensors["head.weight"] = tensors["table.weight"]
    expected = {
        "weights": {name: tensor.tolist() for name, tensor in tensors.items()},
        "last": {name: tensor.tolist() for name, tensor in result.model.state_dict().items()},
        "train_loss": result.train_loss,
        "val_loss": result.val_loss,
        "best_val_loss": result.best_val_loss,
        "samples": STEPS * 8,
    }
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    {"curve": remake_curve, "checkpoint": make_checkpoint}[sys.argv[1]]()
