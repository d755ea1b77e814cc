"""Bad input: one sentence that names what was given, what is allowed and what to do; exit code 2; nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import HEAD, RECIPE, Done, lehr, unchanged
from PIL import Image


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(folder: Path, *args: str | Path, traceback: bool = False) -> str:
    """Run a command that must be refused, and return its message."""
    with unchanged(folder):
        done = lehr(*args, "--json")
    assert done.code == 2, done
    assert set(done.json) == {"error", "exit_code", "notes"} and done.json["exit_code"] == 2
    message: str = done.json["error"]
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 1
    assert done.err.endswith("\n".join([f"error: {message}", *(f"       {n}" for n in done.json["notes"])]) + "\n")
    assert ("Traceback" in done.err) == traceback
    return message


SETTINGS = {
    "recipe": (["gpt-txt"], "unknown recipe 'gpt-txt' (did you mean 'gpt-text'?); give FILE.py, FILE.py:FUNCTION or"),
    "field": (["digits", "--set", "optim.lrr=1"], "AdamW has no field 'lrr' (did you mean 'lr'?); its fields: lr,"),
    "group": (["digits", "--set", "optimm.lr=1"], "Recipe has no field 'optimm' (did you mean 'optim'?)"),
    "optimizer": (["digits", "--set", "optim=adamww"], "unknown optimizer 'adamww' (did you mean 'adamw'?); known:"),
    "schedule": (["digits", "--set", "schedule=warmup_cosin"], "(did you mean 'warmup_cosine'?); known: constant,"),
    "metric": (["digits", "--set", "metrics=acuracy"], "unknown metric 'acuracy' (did you mean 'accuracy'?); known:"),
    "monitor": (["digits", "--set", "evaluate.monitor=acc"], "evaluate.monitor='acc' is not measured; known: loss, ac"),
    "word": (["digits", "--set", "precision=bf61"], "'bf16-weights', 'fp16' or 'fp8' (did you mean 'bf16'?)"),
    "tokens": (["gpt-text", "--set", "data.tokens=chars"], "tokens='chars' is refused: input should be 'byte' or 'char'"),
    "number": (["digits", "--set", "optim.lr=abc"], "AdamW: lr='abc' is refused: input should be a valid number"),
    "whole": (["digits", "--set", "steps=1.5"], "Recipe: steps='1.5' is refused: input should be a valid integer"),
    "negative": (["digits", "--set", "steps=-1"], "steps='-1' is refused: input should be greater than or equal to 1"),
    "nan": (["digits", "--set", "optim.lr=nan"], "lr='nan' is refused: input should be a finite number"),
    "bool": (["digits", "--set", "compile=maybe"], "compile='maybe' is refused: use true, false, blocks, reduce-"),
    "duration": (["digits", "--set", "evaluate.every=often"], "'often' is not a duration; write a number of steps, or"),
    "list": (["digits", "--set", "optim.betas=0.9,0.95"], "betas='0.9,0.95' is refused: input should be a valid tuple; "),
    "json": (["digits", "--set", "optim.betas=[0.9"], "'[0.9' looks like JSON but is not: Expecting ',' delimiter"),
    "no equals": (["digits", "--set", "steps"], "'steps' is not a setting; write path.to.field=value, for example"),
    "no path": (["digits", "--set", "=3"], "'=3' is not a setting"),
    "in none": (["gpt-text", "--set", "data.path.x=3"], "'data.path' is None, which has no field 'x'; set it in the rec"),
    "in a function": (["digits", "--set", "objective.loss.x=3"], "'objective.loss' is lehr.losses.cross_entropy.cross_"),
    "no length": (["digits", "--set", "epochs=none"], "a run needs steps= or epochs=, one of them; given: neither"),
    "short": (["digits", "--set", "epochs=0.001"], "epochs=0.001 is less than one update; an epoch has 23"),
    "objective": (["digits", "--set", "objective=crossentropy"], "unknown loss 'crossentropy' (did you mean 'cross_entropy'?)"),
    "model": (["digits", "--set", "model=foo"], "model='foo' cannot make a model; give a class or function"),
    "threads": (["digits", "--set", "threads=0"], "threads='0' is refused: input should be greater than or equal to 1"),
    "device": (["digits", "--set", "device=cud"], "device='cud' is no device; use 'auto', 'cpu', 'cuda', 'cuda:1' or"),
    "no cuda": (["digits", "--set", "device=cuda:7"], "device='cuda:7', but this machine has no CUDA device that torch"),
    "batch": (["digits", "--set", "data.batch_size=9999"], "batch_size=9999 is larger than the data, which has 1438 sam"),
    "pieces": (["digits", "--set", "accumulate=65"], "accumulate=65 cuts a batch of 64 samples into more pieces than"),
    "held out": (["digits", "--set", "data.val_share=0.0001"], "data.val_share=0.0001 of 1797 pictures is none; use at"),
    "workers": (["digits", "--set", "data.workers=2"], "workers=2 has no effect on data in memory"),
    "weights": (["digits", "--set", "weights=nofile"], "weights='nofile' cannot be read as safetensors"),
    "warm-up": (["digits", "--set", "steps=5", "--set", "schedule.warmup=10"], "the run has 5; use at most 5 steps, or '5"),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(here: Path, case: str) -> None:
    args, expected = SETTINGS[case]
    if case == "no cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert expected in refused(here, "train", *args)


def make_data(here: Path) -> None:
    (here / "folder").mkdir()
    (here / "empty.txt").touch()
    (here / "short.txt").write_text("a few words\n" * 3)
    (here / "some.txt").write_text("a few words\n" * 200)
    (here / "noise.bin").write_bytes(np.random.default_rng(0).bytes(10_000))
    (here / "odd.bin").write_bytes(b"abc" * 11)
    (here / "one.tsv").write_text("a\tb\nc\n")
    (here / "single.tsv").write_text("a\tb\n")
    (here / "broken.json").write_text("{]")
    (here / "other.json").write_text('{"a": 1}')
    for name in ("cat", "dog"):
        (here / "pictures" / name).mkdir(parents=True)
        for place in range(4):
            Image.new("RGB", (8, 8)).save(here / "pictures" / name / f"{place}.png")
    for file in (here / "pictures" / "dog").iterdir():
        file.write_bytes(b"no picture")


DATA = {
    "text missing": ("gpt-text", "nothere", "data.path='nothere' does not exist; give the path of a file"),
    "text empty": ("gpt-text", "empty.txt", "data.path='empty.txt' is empty; give a file with data in it"),
    "text unreadable": ("gpt-text", "folder", "data.path='folder' is a folder; give the path of a file in it"),
    "text short": ("gpt-text", "short.txt", "33 tokens, too few for windows of context=256; use a context of at most 16"),
    "text batch": ("gpt-text", "some.txt", "batch_size=8 is larger than the data, which has 7 samples; use a batch_size"),
    "text encoding": ("gpt-text data.tokens=char", "noise.bin", "is not UTF-8 (byte 1); use data.tokens=byte, or conver"),
    "text share": ("gpt-text data.val_share=0.0001", "some.txt", "data.val_share=0.0001 of 2400 bytes is none; give a l"),
    "tokens not given": ("gpt2-124m", "none", "this recipe needs tokens: --set data.path=FILE"),
    "tokens missing": ("gpt2-124m", "nothere", "data.path='nothere' does not exist"),
    "tokens empty": ("gpt2-124m", "empty.txt", "data.path='empty.txt' has 0 bytes, which is no sequence of 16-bit token"),
    "tokens odd": ("gpt2-124m", "odd.bin", "has 33 bytes, which is no sequence of 16-bit tokens; give a file of unsigned"),
    "tokens high": ("gpt2-124m", "noise.bin", "but data.vocab_size=50257 allows 0 to 50256; give the vocabulary's size"),
    "tokens held out": ("gpt2-124m data.val_path=folder", "some.txt", "data.val_path='folder' is a folder"),
    "pairs missing": ("translate", "nothere.tsv", "data.path='nothere.tsv' does not exist"),
    "pairs empty": ("translate", "empty.txt", "data.path='empty.txt' is empty"),
    "pairs columns": ("translate", "one.tsv", "entry 2 is not a pair of texts; give a .tsv with two columns, or a .json"),
    "pairs single": ("translate", "single.tsv", "has one pair; give at least two, one of which is held out"),
    "pairs broken": ("translate", "broken.json", "data.path='broken.json' is not JSON"),
    "pairs other": ("translate", "other.json", "has no pairs; give a .tsv with two columns, or a .json list of pairs"),
    "pairs binary": ("translate", "noise.bin", "entry 1 is not a pair of texts"),
    "pictures not given": ("images", "none", "this recipe needs pictures: --set data.path=FOLDER with one folder per"),
    "pictures missing": ("images", "nothere", "data.path='nothere' does not exist; give a folder that holds a folder per"),
    "pictures file": ("images", "some.txt", "data.path='some.txt' is not a folder; give one that holds a folder per cla"),
    "pictures none": ("images", "folder", "has pictures in 0 folders; give one with a folder of pictures (.bmp, .gif"),
    "pictures binary": ("images data.batch_size=6", "pictures", "cannot identify image file 'pictures/dog/"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_data(here: Path, case: str) -> None:
    make_data(here)
    recipe, path, expected = DATA[case]
    name, *settings = recipe.split()
    options = [word for setting in [f"data.path={path}", *settings] for word in ("--set", setting)]
    assert expected in refused(here, "train", name, *options)


USAGE = {
    "verb": (["trian", "digits"], "No such command 'trian'. Did you mean 'train'?"),
    "no recipe": (["train"], "Missing argument"),
    "extra": (["train", "digits", "more"], "unexpected extra argument"),
    "option": (["train", "digits", "--sett", "a=1"], "No such option: --sett"),
    "length": (["sample", "run", "--length", "0"], "Invalid value for '--length'"),
    "kind": (["list", "optimizer"], "(did you mean 'optimizers'?); choose from: recipes, optimizers, schedules, meth"),
    "split": (
        ["eval", "run", "--split", "vall"],
        "--split vall is unknown (did you mean 'val'?); choose from: val, tr",
    ),
    "checkpoint": (["eval", "run", "--checkpoint", "bset"], "--checkpoint bset is unknown (did you mean 'best'?)"),
    "weights": (["sample", "run", "--checkpoint", "bset"], "--checkpoint bset is unknown (did you mean 'best'?); choo"),
    "no run to eval": (["eval", "run"], "run holds no run (it has no recipe.json); give the folder of a run"),
    "no run to sample": (["sample", "run"], "run holds no run"),
    "no run to report": (["report", "run"], "run holds no run"),
    "no run to resume": (["resume", "run"], "run holds no run"),
    "a file to resume": (["resume", "file.py"], "file.py holds no run"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage(here: Path, case: str) -> None:
    (here / "file.py").touch()
    args, expected = USAGE[case]
    assert expected in refused(here, *args)


def test_without_a_verb_the_verbs_are_listed(here: Path) -> None:
    done = lehr()
    assert (done.code, done.out) == (2, "")
    assert all(verb in done.err for verb in ("train", "resume", "eval", "sample", "report", "list"))


PLACES = {
    "a run": ("run", "run already holds a run; go on with it by `lehr resume run`, or give another folder with --run"),
    "not empty": ("full", "full is not empty, and holds no run; give a new folder with --run, or empty it"),
    "a file": ("file", "file is a file; give a folder with --run"),
    "below a file": ("file/run", "the run folder file/run cannot be made: Not a directory"),
    "not writable": ("/proc/run", "the run folder /proc/run cannot be made"),
}


@pytest.mark.parametrize("case", PLACES)
def test_run_folders(here: Path, case: str) -> None:
    (here / "mine.py").write_text(HEAD + RECIPE)
    (here / "file").write_text("mine")
    (here / "full").mkdir()
    (here / "full" / "notes.txt").write_text("mine")
    (here / "run").mkdir()
    (here / "run" / "recipe.json").write_text("{}")
    place, expected = PLACES[case]
    assert expected in refused(here, "train", "mine.py", "--run", place)


FILES = {
    "gone": (None, "gone.py does not exist; put it back if it was moved, or give FILE.py, FILE.py:FUNCTION or a built"),
    "no function": ("def recipee(): pass", "has no function 'recipe' (did you mean 'recipee'?); its functions: recipee"),
    "no recipe": ("def recipe(): return 5", "returned int; it must return a lehr.Recipe"),
    "no suffix": ("", "unknown recipe 'no suffix'; did you mean the file's name with .py?"),
    "field": (RECIPE.replace("model=Net", "model=Net, epocs=3"), "Recipe has no field 'epocs' (did you mean 'epochs'?)"),
    "no module": (RECIPE.replace("model=Net", "model=lambda: 5"), "model made a int; it must make a torch.nn.Module"),
    "instance": (RECIPE.replace("model=Net", "model=Net()"), "model is an instance of Net; give what makes it"),
    "no data": (RECIPE.replace("train=(X, Y), ", ""), "Data needs train=: tensors, a data set, an iterable or a DataLo"),
    "one tensor": (RECIPE.replace("train=(X, Y)", "train=X"), "a loss(output, target) needs batches (input, target)"),
    "empty": ("X, Y = X[:0], Y[:0]" + RECIPE, "the data is empty; give at least one sample"),
    "lengths": ("Y = Y[:9]" + RECIPE, "tensors of samples must share their first dimension; these have [40, 9]"),
    "batch": (RECIPE.replace("batch_size=8", "batch_size=80"), "use a batch_size of 1 to 40"),
    "labels": ("Y = Y + 1" + RECIPE, "labels must be 0 to 2, since the model gives 3 scores; found 3 in samples "),
    "label type": ("Y = Y.float()" + RECIPE, "float32"),
    "small integers": ("Y = Y.to(torch.int32)" + RECIPE, "the target is a tensor of shape (8,) and type int32"),
    "output shape": (
        RECIPE.replace("model=Net", "model=lambda: nn.Sequential(Net(), nn.Unflatten(1, (3, 1)))"),
        "and the target (8,); class scores need the target's shape and one dimension more, (8, 'classes')",
    ),
    "stretched": (RECIPE.replace("nn.CrossEntropyLoss()", "nn.MSELoss()"), "an elementwise loss would stretch one over"),
    "vector": (
        "def loss(o, t): return F.cross_entropy(o, t, reduction='none')"
        + RECIPE.replace("nn.CrossEntropyLoss()", "loss"),
        "a loss must return a mean over the batch (a 0-d tensor) or a tuple (sum, count)",
    ),
    "detached": (
        "def loss(o, t): return F.cross_entropy(o.detach(), t)" + RECIPE.replace("nn.CrossEntropyLoss()", "loss"),
        "returned a loss without a gradient, so nothing can be learned; look for detach(), item(), argmax()",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_recipe_files(here: Path, case: str) -> None:
    code, expected = FILES[case]
    file = here / f"{case}.py"
    if code is not None:
        file.write_text(f"{HEAD}\n{code}")
    assert expected in refused(here, "train", case if case == "no suffix" else file)


def test_a_function_that_the_file_lacks_is_answered_with_the_nearest(here: Path) -> None:
    (here / "mine.py").write_text(HEAD + RECIPE)
    assert "(did you mean 'recipe'?); its functions: recipe" in refused(here, "train", "mine.py:recipee")


RAISING = {
    "syntax": ("def recipe(:\n", "raised SyntaxError: invalid syntax", "def recipe(:"),
    "import": ("import nosuchmodule\n", "raised ModuleNotFoundError: No module named 'nosuchmodule'", "import nosuch"),
    "at import": ("def f():\n    raise ValueError('boom')\nf()\n", "raised ValueError: boom", "in f\n"),
    "exit": ("import sys\nsys.exit(7)\n", "raised SystemExit: 7", "sys.exit(7)"),
    "in recipe": ("def recipe():\n    return {}['x']\n", "raised KeyError: 'x'", "in recipe\n"),
    "in the model": (HEAD + RECIPE.replace("model=Net", "model=lambda: 1 / 0"), "ZeroDivisionError", "in <lambda>\n"),
    "in forward": (HEAD + "X = X[:, :3]" + RECIPE, "Net failed on the first batch: RuntimeError: mat1 and", "in forward"),
    "in the loss": (
        HEAD + "def loss(o, t): return o.nothing" + RECIPE.replace("nn.CrossEntropyLoss()", "loss"),
        "loss failed on the first batch: AttributeError",
        "in loss\n",
    ),
    "in the data": (
        HEAD
        + "class D:\n    def __len__(self): return 9\n    def __getitem__(self, i): return {}[i]\n"
        + RECIPE.replace("train=(X, Y)", "train=D()"),
        "could not be read: KeyError",
        "in __getitem__\n",
    ),
    "in collate": (
        HEAD + "def put(s): return s.nothing" + RECIPE.replace("train=(X, Y)", "train=list(zip(X, Y)), collate=put"),
        "8 samples could not be made a batch: AttributeError",
        "in put\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RAISING)
def test_what_a_recipe_raises_comes_with_its_own_frames(here: Path, case: str) -> None:
    code, expected, frame = RAISING[case]
    file = here / "mine.py"
    file.write_text(code)
    assert expected in refused(here, "train", file, traceback=True)
    done: Done = lehr("train", file)
    places = [line for line in done.err.splitlines() if line.startswith('  File "')]
    assert places and all(f'"{file}"' in place for place in places), done.err
    assert frame in done.err
    assert done.err.count("\n") < 12
