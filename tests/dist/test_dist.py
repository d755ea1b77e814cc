"""Two real processes over gloo: the update, the rate and the decisions are those of one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers import Mlp, exact, points, run_steps, weights
from worker import Gradients, exchanging, six_steps, tagging

import lehr
from lehr.run.opened import open_run

pytestmark = pytest.mark.dist


def torchrun(task: str, folder: Path, processes: int = 2) -> str:
    """Run a task of `worker.py` in so many processes; returns what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(Path(__file__).with_name("worker.py")), task, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def test_gradients_of_ragged_batches_are_those_of_one_process(tmp_path: Path) -> None:
    """(16 at once) = (16 single ones) = (2 processes of 8, each in 4 pieces), to 1e-10 in float64."""
    torchrun("gradients", tmp_path)
    kept = {}
    for accumulate in (1, 16):
        method = Gradients()
        run = tmp_path / f"single-{accumulate}"
        result = lehr.train(tagging(accumulate=accumulate, steps=3, methods=(method,)), run_dir=run)
        kept[accumulate] = method.kept
    for rank in (0, 1):
        shared = torch.load(tmp_path / f"gradients-{rank}.pt")
        for one, pieces, both in zip(kept[1], kept[16], shared, strict=True):
            for name in one:
                assert torch.allclose(one[name], pieces[name], rtol=0, atol=1e-10), name
                assert torch.allclose(one[name], both[name], rtol=0, atol=1e-10), name
    ends = [torch.load(tmp_path / f"weights-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    for rank in (0, 1):
        told = json.loads((tmp_path / f"result-{rank}.json").read_text())
        assert told["val_loss"] == pytest.approx(result.val_loss, abs=1e-12)
        assert told["train_loss"] == pytest.approx(result.train_loss, abs=1e-12)


def test_records_and_rates_are_those_of_one_process(tmp_path: Path) -> None:
    torchrun("gradients", tmp_path)
    lehr.train(tagging(accumulate=1, steps=3), run_dir=tmp_path / "single")
    for shared, single in zip(exact(tmp_path / "run"), exact(tmp_path / "single"), strict=True):
        assert shared.keys() == single.keys()
        for name, value in single.items():
            assert shared[name] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), name
            if name in {"lr", "samples", "tokens", "epoch"}:
                assert shared[name] == value


def test_batch_norm_under_averaged_weights_is_that_of_all_batches(tmp_path: Path) -> None:
    """Five of the six batches, three for one process and two for the other: statistics as of one process."""
    torchrun("averages", tmp_path)
    ends = [torch.load(tmp_path / f"averaged-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0] if not name.endswith("tracked"))
    model = Mlp(dropout=0.0)
    model.load_state_dict(ends[0])
    x, _ = points()
    torch.optim.swa_utils.update_bn([x[8 * place : 8 * place + 8] for place in (0, 1, 2, 4, 5)], model)
    assert torch.allclose(model.norm.running_mean, ends[0]["norm.running_mean"], atol=1e-6)
    assert torch.allclose(model.norm.running_var, ends[0]["norm.running_var"], atol=1e-6)


def test_layers_are_exchanged_alike_in_all_processes_and_as_in_one(tmp_path: Path) -> None:
    torchrun("exchange", tmp_path)
    # a thread of the group that outlives it can abort the process while Python ends
    assert all(int((tmp_path / f"threads-{rank}.txt").read_text()) <= 1 for rank in (0, 1))
    for kind in ("progressive", "settling", "dynamic"):
        ends = [torch.load(tmp_path / f"{kind}-{rank}.pt") for rank in (0, 1)]
        assert "2.U" in ends[0]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
        trainer = lehr.Trainer(exchanging(kind), run_dir=tmp_path / f"single-{kind}")
        trainer.fit()
        single = trainer.model.state_dict()
        assert {n: v.shape for n, v in single.items()} == {n: v.shape for n, v in ends[0].items()}
        product = [end["2.U"] @ end["2.V"].T for end in (single, ends[0])]  # factors may differ by signs
        assert torch.allclose(*product, rtol=0, atol=1e-7), kind
        shutil.rmtree(max((tmp_path / kind / "checkpoints").glob("step-*")))
    before = {kind: exact(tmp_path / kind) for kind in ("progressive", "settling", "dynamic")}
    torchrun("exchange_resumed", tmp_path)
    for kind, records in before.items():
        assert exact(tmp_path / kind) == records


def test_a_stop_that_one_process_wants_is_a_stop_of_all(tmp_path: Path) -> None:
    torchrun("one_rank_wants_to_stop", tmp_path)
    ends = [json.loads((tmp_path / f"stopped-{rank}.json").read_text()) for rank in (0, 1)]
    assert ends == [["enough", 4], ["enough", 4]]  # records come every two steps


def test_a_bad_sample_of_one_process_is_named_by_all(tmp_path: Path) -> None:
    torchrun("gives_up", tmp_path)
    for rank in (0, 1):
        text = (tmp_path / f"error-{rank}.txt").read_text()
        assert "at step 2: the batch itself is not finite, samples 20" in text
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["samples"] == [20]


@pytest.mark.slow
def test_what_any_kind_of_run_saved_loads_into_any_other(tmp_path: Path) -> None:
    """Eager, compiled, two processes, and both: 16 pairs, every name the same and every tensor there."""
    torchrun("keys", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for compiled in (False, True):
            run_steps(lehr.Trainer(six_steps(compiled), run_dir=tmp_path / f"one-{compiled}"), 4)
        kinds = ["one-False", "one-True", "ddp-False", "ddp-True"]
        names = set()
        for kind in kinds:
            opened = open_run(tmp_path / kind, which="last", recipe=six_steps(False))
            assert opened.step == 3
            names.add(tuple(weights(opened.model)))
            for other in kinds:
                shutil.copytree(tmp_path / kind, tmp_path / f"{kind}-to-{other}")
        assert names == {("0.weight", "0.bias", "2.weight", "2.bias")}
        torchrun("cross", tmp_path)
        for run in sorted(tmp_path.glob("*-to-one-*")):
            lehr.resume(run, recipe=six_steps(run.name.endswith("True")), allow_changes=True)
    results = [json.loads((run / "result.json").read_text()) for run in sorted(tmp_path.glob("*-to-*"))]
    assert len(results) == 16
    assert {r["step"] for r in results} == {6}
    losses = [r["val_loss"] for r in results]
    assert losses == pytest.approx([losses[0]] * 16, rel=1e-4)
    torch.compiler.reset()
