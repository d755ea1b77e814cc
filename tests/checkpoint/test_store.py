"""Checkpoints: whole or not there, the newest intact one found, the best and the last kept, failures said aloud."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lehr.base.errors import CheckpointError, LehrWarning
from lehr.checkpoint import CheckpointStore, files


def state(value: float) -> dict[str, Any]:
    return {
        "model": {"w": torch.full((50,), value)},
        "optimizer": {"w": {"m": torch.full((50,), -value)}},
        "clock": {"step": value},
    }


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints", keep=3)
    for step in (10, 20, 30):
        store.save(step, state(float(step)))
    return store


def test_reads_what_was_saved(store: CheckpointStore) -> None:
    found = store.newest()
    assert found is not None and found.step == 30
    parts = store.read(found)
    assert parts["model"]["w"].tolist() == [30.0] * 50
    assert parts["optimizer"]["w"]["m"].tolist() == [-30.0] * 50
    assert parts["clock"] == {"step": 30.0}


def test_every_file_is_safetensors_or_json(store: CheckpointStore) -> None:
    for path in store.folder.rglob("*"):
        if path.is_file():
            assert path.suffix in {".safetensors", ".json"}
    manifest = json.loads((store.paths()[0] / "manifest.json").read_bytes())
    assert set(manifest["files"]) == {"model.safetensors", "optimizer.safetensors", "state.json"}


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(str(path)).randrange(len(content))] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def older(path: Path) -> None:
    shutil.copy(path.parents[1] / "step-00000010" / path.name, path)


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [cut, flip, empty, older, Path.unlink], ids=["cut", "flipped", "emptied", "older", "gone"]
)
def test_a_damaged_newest_is_passed_over_and_named(
    store: CheckpointStore, name: str, damage: Callable[[Path], None]
) -> None:
    target = store.paths()[-1] / name
    damage(target)
    found = store.newest()
    assert found is not None
    if name == "manifest.json" and damage in (flip, older):
        return  # a byte of a note may change, and a whole older manifest describes other content: never a wrong load
    assert found.step == 20
    assert found.passed_over and found.passed_over[0].startswith("step-00000030: ")
    assert target.parent.exists(), "what is damaged is never deleted"


def test_a_mixture_of_two_saves_is_detected(store: CheckpointStore) -> None:
    older(store.paths()[-1] / "manifest.json")
    found = store.newest()
    assert found is not None and found.step == 20


def test_ten_flipped_bytes_are_all_detected(store: CheckpointStore) -> None:
    target = store.paths()[-1] / "model.safetensors"
    whole = target.read_bytes()
    for place in range(0, len(whole), len(whole) // 10):
        content = bytearray(whole)
        content[place] ^= 0x10
        target.write_bytes(content)
        assert store.newest().step == 20  # type: ignore[union-attr]


def test_nothing_intact_is_an_error_that_lists_everything(store: CheckpointStore) -> None:
    for path in store.paths():
        cut(path / "state.json")
    with pytest.raises(CheckpointError, match=r"(?s)none of the checkpoints.*0030: .*0020: .*0010: "):
        store.newest()
    assert CheckpointStore(store.folder / "nowhere").newest() is None


def test_a_newer_format_is_not_guessed_at(store: CheckpointStore) -> None:
    manifest = store.paths()[-1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    found = store.newest()
    assert found is not None and found.step == 20 and "format 99, newer than this lehr reads" in found.passed_over[0]


@given(
    st.lists(st.none() | st.floats(-5, 5), min_size=1, max_size=12), st.integers(1, 3), st.sampled_from(["min", "max"])
)
@settings(deadline=None, max_examples=40)
def test_best_and_last_are_always_there_and_never_more_than_k_plus_two(
    tmp_path_factory: pytest.TempPathFactory, values: list[float | None], keep: int, goal: Any
) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("run"), keep=keep, goal=goal)
    seen: dict[int, float] = {}
    for step, value in enumerate(values):
        store.save(step, {"clock": {"step": step}}, value=value)
        if value is not None:
            seen[step] = value
        steps = [int(p.name.removeprefix("step-")) for p in store.paths()]
        assert len(steps) <= keep + 2
        assert step in steps
        assert set(range(max(0, step - keep + 1), step + 1)) <= set(steps)
        if seen:
            best = (min if goal == "min" else max)(seen.values())
            first = next(s for s, v in seen.items() if v == best)
            assert store.best().step == first  # type: ignore[union-attr]


def test_an_old_one_goes_only_when_the_new_one_has_been_verified(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, gone = files.remove_folder, list[str]()

    def watched(folder: Path) -> None:
        found = store.newest()
        assert found is not None and found.step == 40 and not found.passed_over
        gone.append(folder.name)
        remove(folder)

    monkeypatch.setattr(files, "remove_folder", watched)
    store.save(40, state(40.0))
    assert gone == ["step-00000010"]
    write = files.write_synced
    monkeypatch.setattr(
        files, "write_synced", lambda path, content: write(path, content[: -1 if "model" in path.name else None])
    )
    with pytest.raises(CheckpointError, match="step 50 could not be written .* has .* bytes instead of"):
        store.save(50, state(50.0))
    assert gone == ["step-00000010"] and store.newest().step == 40  # type: ignore[union-attr]


def fail_at(monkeypatch: pytest.MonkeyPatch, place: int, code: int) -> list[str]:
    """Let the ``place``-th system call of a save fail; returns the calls that were made."""
    calls: list[str] = []

    def guarded(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*given_: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) == place:
                raise OSError(code, os.strerror(code))
            return real(*given_, **named)

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((files, "write_synced"), (os, "fsync"), (Path, "mkdir"), (Path, "rename")):
        guarded(owner, name)
    return calls


@pytest.mark.filterwarnings("ignore:the old checkpoint")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_whatever_fails_in_a_save_is_said_and_costs_nothing(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    place = 0
    while True:
        place += 1
        with monkeypatch.context() as patch:
            calls = fail_at(patch, place, code)
            try:
                store.save(40, state(40.0))
            except CheckpointError as error:
                assert "step 40 could not be written" in str(error)
                assert os.strerror(code) in str(error)
                assert re.search("step-000000[34]0 is intact", str(error))
            else:
                break
        found = store.newest()
        assert found is not None and found.step in (30, 40)
        assert not found.passed_over, f"call {place} ({calls[-1]}) left something broken behind"
        if found.step == 40:
            shutil.rmtree(found.path)
    assert place > 8


def test_a_real_full_disk(tmp_path: Path) -> None:
    """A file system of 2 MB, nearly filled by a neighbour, as in a mount made for this test."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        store = CheckpointStore(disk / "checkpoints", keep=1)
        store.save(1, {"model": {"w": torch.ones(100_000)}})
        (disk / "neighbour").write_bytes(b"x" * 1_400_000)
        with pytest.raises(CheckpointError, match=r"No space left.*step-00000001 is intact"):
            store.save(2, {"model": {"w": torch.ones(100_000)}})
        assert store.newest().step == 1  # type: ignore[union-attr]
        (disk / "neighbour").unlink()
        store.save(2, {"model": {"w": torch.ones(100_000)}})
        assert store.newest().step == 2  # type: ignore[union-attr]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_system_temporary_folder_is_not_used(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    assert store.save(50, state(50.0)).exists()


def test_leftovers_of_a_kill_are_removed(store: CheckpointStore) -> None:
    (store.folder / ".partial-step-00000040-1").mkdir()
    (store.folder / ".removed-step-00000010-1").mkdir()
    assert store.newest().step == 30  # type: ignore[union-attr]
    store.clean()
    assert sorted(p.name for p in store.folder.iterdir()) == ["step-00000010", "step-00000020", "step-00000030"]


def test_a_malicious_file_in_place_of_another_is_never_run(store: CheckpointStore, tmp_path: Path) -> None:
    import pickle

    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(mark), "w"))

    for name in FILES:
        target = store.paths()[-1] / name
        whole = target.read_bytes()
        target.write_bytes(pickle.dumps(Evil()))
        assert store.newest().step == 20  # type: ignore[union-attr]
        target.write_bytes(whole)
    assert not mark.exists()


def test_weights_can_be_read_with_nothing_but_torch(store: CheckpointStore) -> None:
    """The reader of docs/checkpoints.md, run where neither lehr nor safetensors can be imported."""
    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    reader = text.split("```python\n")[1].split("```")[0]
    code = (
        "import sys\nfor name in ('lehr', 'safetensors', 'numpy'): sys.modules[name] = None\n"
        f"{reader}\n"
        f"print(read_weights({str(store.paths()[-1] / 'model.safetensors')!r})['w'].sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1500.0"


def test_what_is_damaged_takes_no_place_among_those_that_are_kept(tmp_path: Path) -> None:
    """The newest, damaged, claims the best value; the true best and the last must stay."""
    folder = tmp_path / "checkpoints"
    for step, value in ((1, 0.5), (2, 0.9), (3, 0.8), (4, 0.1)):
        CheckpointStore(folder, keep=4).save(step, state(float(step)), value=value)
    cut(folder / "step-00000004" / "model.safetensors")
    store = CheckpointStore(folder, keep=2)  # another process goes on from 3
    assert store.newest().step == 3  # type: ignore[union-attr]
    store.save(5, state(5.0), value=0.7)
    assert [p.name[-1] for p in store.paths()] == ["1", "3", "4", "5"], "the best, the last two, and what is damaged"
    assert store.best().step == 1  # type: ignore[union-attr]


def test_a_checkpoint_is_looked_at_once_in_a_process(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    real = files.hash_file
    monkeypatch.setattr(files, "hash_file", lambda path: hashed.append(path) or real(path))
    other = CheckpointStore(store.folder, keep=3)
    for step in (40, 50, 60):
        other.save(step, state(float(step)))
    counted = {path: hashed.count(path) for path in hashed if not path.parent.name.startswith(".")}
    assert set(counted.values()) == {1}


def test_where_all_that_have_a_value_are_damaged_the_newest_is_the_best_there_is(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    cut(store.save(1, state(1.0), value=0.5) / "model.safetensors")
    store.save(2, state(2.0))
    found = store.best()
    assert found is not None and found.step == 2
    assert "step-00000001: model.safetensors has" in found.passed_over[0]


def test_one_that_is_to_be_kept_is_never_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step in range(1, 8):
        store.save(step, state(0.0), value=float(step), keep=step % 3 == 0)
    assert [path.name for path in store.paths()] == [f"step-{step:08d}" for step in (1, 3, 6, 7)]
    assert [found.step for found in store.kept()] == [3, 6]
    again = CheckpointStore(tmp_path, keep=1)  # which is asked for no such thing
    again.save(8, state(0.0), value=0.0)
    assert [found.step for found in again.kept()] == [3, 6]
    (tmp_path / "step-00000003" / "model.safetensors").write_bytes(b"")
    with pytest.warns(LehrWarning, match="passed over a damaged checkpoint: step-00000003: model.safetensors has 0"):
        assert [found.step for found in again.kept()] == [6]
