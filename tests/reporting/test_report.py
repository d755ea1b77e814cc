"""report.html: one file that needs nothing else, whatever is in the run."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers import points, recipe, records

import lehr
from lehr.base.errors import NonFiniteError, SettingError
from lehr.base.protocols import Method, Observer, Place
from lehr.optim import AdamW
from lehr.reporting.figures import figures
from lehr.reporting.read import read_runs
from lehr.reporting.report import write_report

HOSTILE = "</script><script>hit()</script><!--<script><img src=x onerror=hit()>\"'&amp;"


class Page(HTMLParser):
    """The elements of a page, its scripts, and the text that a reader sees."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data + "\n"

    @property
    def figures(self) -> dict[str, list[dict[str, Any]]]:
        """The traces of each figure by its title, as the page's last script has them."""
        titles = re.findall(r"<h3>(.*?)</h3>", self.source)
        calls = re.findall(r"newPlot\('figure-\d+', (\[.*?\]), \{\"height\"", self.scripts[-1])
        return dict(zip(titles, map(json.loads, calls), strict=True))


class Spoil(Method):
    """Makes some losses nan."""

    changes = frozenset({"loss"})

    def __init__(self, *steps: int) -> None:
        self.steps = list(steps)

    def loss_ready(self, total: Any, count: Any, model: Any, place: Place) -> Any:
        if place.step in self.steps:
            self.steps.remove(place.step)
            return total * float("nan")
        return total


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    lehr.train(recipe(), run_dir=run, overrides=["clip=0.5"])
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_run_leaves_a_page_with_all_that_is_known_of_it(finished: Path) -> None:
    page = Page(finished / "report.html")
    result = json.loads((finished / "result.json").read_text())
    assert page.figures.keys() == {
        "Loss",
        "Accuracy on validation data",
        "Learning rate",
        "Gradient norm before clipping",
        "Throughput",
    }
    for value in (result["train_loss"], result["val_loss"], result["metrics"]["accuracy"]):
        assert f"{value:.4g}\n" in page.text
    assert f"{result['samples_per_second']:,.0f}\nsamples per second" in page.text
    assert f"{1000 * result['train_seconds']:.0f} ms\nin training steps" in page.text
    assert re.search(r"15\nsteps\n", page.text) and re.search(r"finished\nended\n", page.text)
    assert "Made in an interactive session.  --set clip=0.5" in page.text
    for setting in ("optim\nAdamW\n", "optim.lr\n0.01\n", "schedule\nWarmupCosine\n", "clip\n0.5\n", "steps\n15\n"):
        assert setting in page.text
    environment = json.loads((finished / "environment.json").read_text())
    for name in ("torch", "python", "processor", "threads"):
        assert f"{name}\n{environment[name]}\n" in page.text
    for checkpoint in (finished / "checkpoints").iterdir():
        assert checkpoint.name in page.text


def test_the_curves_hold_every_record(finished: Path) -> None:
    train, val = ([r for r in records(finished) if r["split"] == split] for split in ("train", "val"))
    drawn = Page(finished / "report.html").figures
    assert [(t["name"], t["x"], t["y"]) for t in drawn["Loss"]] == [
        (name, [r["step"] for r in rows], [r["loss"] for r in rows]) for name, rows in (("train", train), ("val", val))
    ]
    for title, name in (("Learning rate", "lr"), ("Gradient norm before clipping", "grad_norm")):
        assert [t["y"] for t in drawn[title]] == [[r[name] for r in train]]
    assert [t["y"] for t in drawn["Throughput"]] == [[r["samples_per_second"] for r in train]]
    assert [t["y"] for t in drawn["Accuracy on validation data"]] == [[r["accuracy"] for r in val]]


def test_the_page_loads_nothing(finished: Path) -> None:
    page = Page(finished / "report.html")
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), f"<{tag}> loads {attributes[name]}"
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert len(page.scripts[0]) > 1_000_000, "the drawing library is in the page"
    assert not {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base"}


def test_hostile_text_stays_text(run: Path) -> None:
    run = run.rename(run.with_name(HOSTILE.replace("/", "")))
    change(run / "result.json", sample=HOSTILE, stopped=HOSTILE, metrics={HOSTILE: 0.5}, compressors={HOSTILE: 2.0})
    change(run / "environment.json", processor=HOSTILE, sessions=[{"resumed_at": 1, "changes": [HOSTILE]}])
    (run / "failure.json").write_text(json.dumps({"message": HOSTILE, "samples": [HOSTILE]}))
    source = {"kind": "file", "place": HOSTILE, "function": HOSTILE}
    change(run / "recipe.json", source=source, overrides=[HOSTILE], facts={HOSTILE: HOSTILE}, weights=HOSTILE)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": HOSTILE, "split": "val", "loss": 1.0, HOSTILE: 1.0}) + "\n")
    other = shutil.copytree(run, run.with_name("other"))
    for several in ([run], [run, other]):
        page = Page(write_report(several, run / "report.html"))
        assert [tag for tag, _ in page.elements if tag in ("script", "img")] == ["script", "script"]
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        assert HOSTILE in page.text
        assert HOSTILE.replace("/", "") in page.text
        assert "<" not in page.scripts[-1]


def test_the_best_validation_is_shown_where_it_was_not_the_last(run: Path) -> None:
    for best, shown in ((0.125, True), (0.5, False)):
        change(run / "result.json", val_loss=0.5, best_val_loss=best)
        page = Page(write_report([run], run / "report.html"))
        assert ("0.125\nbest val loss" in page.text) == shown
        assert ("best val loss" in page.text) == shown


def test_facts_about_the_data_are_shown(run: Path) -> None:
    change(run / "recipe.json", facts={"train_bytes": 1234, "vocabulary": ["left", "out"]})
    page = Page(write_report([run], run / "report.html"))
    assert "Data\ntrain_bytes\n1234\n" in page.text and "vocabulary" not in page.text


def test_gradient_norms_have_a_logarithmic_axis(run: Path) -> None:
    kinds = {figure["title"]: figure["layout"]["yaxis"]["type"] for figure in figures(read_runs([run]))}
    assert {title for title, kind in kinds.items() if kind == "log"} == {"Gradient norm before clipping"}


def test_tokens_are_counted_where_there_are_any(run: Path) -> None:
    lines = [json.dumps(r | {"tokens_per_second": 7.0 * r["step"]}) for r in records(run) if r["split"] == "train"]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    throughput = figures(read_runs([run]))[-1]
    assert throughput["layout"]["yaxis"]["title"]["text"] == "tokens per second"
    assert throughput["data"][0]["y"] == [7.0 * step for step in throughput["data"][0]["x"]]


def test_the_sample_stands_as_it_is(run: Path) -> None:
    sample = "def f(x):\n    return x  # 字 😀\n"
    change(run / "result.json", sample=sample)
    assert sample in Page(write_report([run], run / "report.html")).text


def test_several_runs_are_laid_over_one_another(finished: Path, tmp_path: Path) -> None:
    lehr.train(recipe(optim=AdamW(lr=0.03), steps=20), run_dir=tmp_path / "second")
    page = Page(write_report([finished, tmp_path / "second"], tmp_path / "both.html"))
    assert [t["name"] for t in page.figures["Loss"]] == ["finished train", "finished val", "second train", "second val"]
    for title in page.figures.keys() - {"Loss"}:
        assert [t["name"] for t in page.figures[title]] == ["finished", "second"], title
        assert len({t["line"]["color"] for t in page.figures[title]}) == 2
    differing = page.text.partition("Settings that differ\n")[2].partition("Recipe of")[0]
    assert differing.split("\n")[:-1] == [
        *("finished", "second"),
        *("optim.lr", "0.01", "0.03"),
        *("steps", "15", "20"),
        *("clip", "0.5", "1.0"),
    ]
    for name in ("finished", "second"):
        assert all(f"{part} of {name}" in page.text for part in ("Recipe", "Checkpoints", "Environment"))


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as raised:
        lehr.train(recipe(methods=(Spoil(9),)), run_dir=tmp_path / "failed")
    page = Page(write_report([tmp_path / "failed"], tmp_path / "report.html"))
    assert "The run failed." in page.text and str(raised.value).partition(":")[0] in page.text
    assert re.search(r"failed\nended\n", page.text) and re.search(r"9\nsteps\n|8\nsteps\n", page.text)
    assert page.figures["Loss"][0]["x"] == [2, 4, 6, 8]


def test_an_interrupted_run_shows_what_it_came_to(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Kill(Observer):
        def step_end(self, place: Place) -> None:
            if place.step == 9:
                raise Killed

    with pytest.raises(Killed):
        lehr.train(recipe(methods=(Kill(),)), run_dir=tmp_path / "killed")
    page = Page(write_report([tmp_path / "killed"], tmp_path / "report.html"))
    last = [r for r in records(tmp_path / "killed") if r["split"] == "train"][-1]
    assert last["step"] == 8
    assert re.search(r"8\nsteps\n", page.text) and re.search(r"not yet\nended\n", page.text)
    assert re.search(rf"{last['loss']:.4g}\ntrain loss\n", page.text)
    assert page.figures["Loss"][0]["x"] == [2, 4, 6, 8]


def test_a_resumed_run_says_where_it_was_resumed(tmp_path: Path) -> None:
    class Stop(Observer):
        def step_end(self, place: Place) -> None:
            if place.step == 7 and not (tmp_path / "stopped").exists():
                (tmp_path / "stopped").touch()
                raise lehr.base.errors.StopRun("preempted")

    given = recipe(methods=(Stop(),))
    lehr.train(given, run_dir=tmp_path / "run")
    assert re.search(r"preempted\nended\n", Page(tmp_path / "run" / "report.html").text)
    lehr.resume(tmp_path / "run", recipe=given)
    page = Page(tmp_path / "run" / "report.html")
    assert "resumed at step 7" in page.text and re.search(r"finished\nended\n", page.text)


def test_a_run_without_validation_has_a_training_curve_alone(tmp_path: Path) -> None:
    lehr.train(recipe(data=lehr.Data(train=points(), batch_size=8), metrics=()), run_dir=tmp_path / "run")
    page = Page(tmp_path / "run" / "report.html")
    assert [t["name"] for t in page.figures["Loss"]] == ["train"]
    assert "val loss" not in page.text and "Accuracy on validation data" not in page.figures


def test_a_run_that_has_not_recorded_yet_says_so(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "result.json").unlink()
    page = Page(write_report([run], run / "report.html"))
    assert "Nothing has been recorded yet." in page.text and not page.figures


def test_a_single_record_is_a_point_that_can_be_seen(tmp_path: Path) -> None:
    lehr.train(recipe(steps=2), run_dir=tmp_path / "run")
    drawn = Page(tmp_path / "run" / "report.html").figures
    assert [t["mode"] for traces in drawn.values() for t in traces] == ["lines+markers"] * 6


def test_withheld_updates_are_crosses_on_the_curve(tmp_path: Path) -> None:
    lehr.train(recipe(methods=(Spoil(4, 9),), nonfinite="skip"), run_dir=tmp_path / "run")
    page = Page(tmp_path / "run" / "report.html")
    train, _, crosses = page.figures["Loss"]
    assert None not in train["y"]
    assert crosses["name"] == "update withheld" and crosses["x"] == [4, 9]
    assert crosses["y"] == [train["y"][1], train["y"][3]]
    assert re.search(r"2\nupdates withheld", page.text)


def test_a_text_model_is_measured_against_compressors(run: Path) -> None:
    lines = [json.dumps(r | {"bits_per_byte": r["loss"] / 0.6931}) for r in records(run)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    change(run / "result.json", compressors={"gzip": 1.9, "xz_after_training_text": 1.4})
    loss = figures(read_runs([run]))[0]
    assert loss["layout"]["yaxis"]["title"]["text"] == "bits per byte"
    assert [(shape["y0"], shape["y1"]) for shape in loss["layout"]["shapes"]] == [(1.9, 1.9), (1.4, 1.4)]
    assert [a["text"] for a in loss["layout"]["annotations"]] == ["gzip 1.90", "xz after training text 1.40"]


def test_a_damaged_manifest_is_said(run: Path) -> None:
    sorted((run / "checkpoints").iterdir())[-1].joinpath("manifest.json").write_text("{")
    page = Page(write_report([run], run / "report.html"))
    assert "step-00000015\nits manifest is damaged" in page.text


def test_a_last_line_that_was_cut_short_is_no_obstacle(run: Path) -> None:
    before = Page(run / "report.html").figures
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 16, "spl')
    assert Page(write_report([run], run / "report.html")).figures == before


def test_a_folder_that_is_no_run_leaves_no_page(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="holds no run"):
        write_report([run, tmp_path], tmp_path / "new.html")
    assert not (tmp_path / "new.html").exists()


@pytest.mark.parametrize("target", ["nowhere/report.html", "folder"])
def test_a_page_that_cannot_be_written_is_one_sentence(run: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SettingError, match=rf"the report \S+{target} cannot be written: \w+"):
        write_report([run], tmp_path / target)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


def test_writing_again_gives_the_same_page(run: Path) -> None:
    pages = [write_report([run], run / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]
