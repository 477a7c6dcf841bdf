"""The page: whole, offline, small, and honest about what is missing."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.offline
import pytest
from typer.testing import CliRunner

from cast_lens.cli import app
from cast_lens.report import page as page_module
from cast_lens.report import publish, write_figures, write_report
from cast_lens.report.page import plain
from cast_lens.report.record import read_run
from tests.plots import synthetic

GEOMETRY = ("parallelism", "cosines", "projection", "alignment", "cohesion", "entropy")
FOUR = base64.b64encode(np.arange(4.0).tobytes()).decode()
SECTIONS = ("question", "experiment-transfer", "labels", "method", "reading", "provenance")


class Outline(HTMLParser):
    """What a page is made of: text by element, attributes, addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = synthetic.write_run(tmp_path_factory.mktemp("runs") / "run")
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


def figures(page: str) -> dict[str, dict]:
    (packed,) = re.findall(r'<script type="application/json" id="figure-data">(.*?)</script>', page, re.S)
    return json.loads(packed)


def test_a_record_without_figures_is_the_same_but_for_them(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run")
    (whole,), (bare,) = (read_run(run, figures=wanted).chapters for wanted in (True, False))
    assert len(whole.figures) == 12
    assert bare.figures == []
    assert bare.headline == whole.headline != ""
    assert [one.name for one in bare.tables] == [one.name for one in whole.tables]


def test_the_command_names_what_cannot_be_read(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run")
    broken = run / "experiments" / "transfer" / "result.parquet"
    broken.write_bytes(b"PAR1")
    done = CliRunner().invoke(app, ["report", str(run)])
    assert done.exit_code == 1
    assert f"cast-lens: transfer: This chapter cannot be read (DamagedFile: {broken} is damaged" in done.output
    (run / "config.json").write_bytes(b"{")
    done = CliRunner().invoke(app, ["report", str(run)])
    assert done.exit_code == 2
    assert "give the arguments and versions that the run was begun with" in done.output


def test_every_section_is_there_and_linked(written: str) -> None:
    outline = Outline(written)
    assert set(SECTIONS) <= set(outline.ids())
    assert len(outline.ids()) == len(set(outline.ids()))
    links = [attributes["href"] for tag, attributes in outline.tags if tag == "a"]
    assert {str(link).removeprefix("#") for link in links} <= set(outline.ids())
    assert not outline.open, "every element is closed"
    assert "No result yet" not in written


def test_the_page_asks_nothing_of_the_network(written: str) -> None:
    for tag, attributes in Outline(written).tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert not re.match(r"(https?:)?//", attributes.get(name) or ""), (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", written, re.S)
    assert style is not None
    assert not re.search(r"@import|url\(", style[1])
    script = written[written.rindex("<script>") :]
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|import\(", script)


def test_the_page_is_small_and_holds_the_library_once(written: str) -> None:
    assert len(written.encode()) < 2_500_000
    (packed,) = re.findall(r'<script type="text/plain" id="plotly-library">(.*?)</script>', written, re.S)
    assert gzip.decompress(base64.b64decode(packed)).decode() == plotly.offline.get_plotlyjs()


def test_every_figure_has_data_an_alternative_text_and_a_caption(written: str) -> None:
    boxes = [attributes for _, attributes in Outline(written).tags if "data-figure" in attributes]
    assert {box["data-figure"] for box in boxes} == set(figures(written)["figures"])
    assert len(boxes) == 12
    assert all(box["role"] == "img" and len(box["aria-label"] or "") > 40 for box in boxes)
    assert written.count("<figcaption>") == len(boxes)


def test_figures_in_the_page_hold_the_frame_s_numbers(written: str) -> None:
    found = figures(written)
    steered = next(trace for trace in found["figures"]["transfer_gain"]["data"] if trace["name"] == "cast")
    assert steered["x"] == [35, -4, 35, 35, 35, 35]
    assert "template" not in found["figures"]["transfer_gain"]["layout"], "kept once for all figures"
    grounds = [found["templates"][theme]["layout"]["paper_bgcolor"] for theme in ("light", "dark")]
    assert grounds == ["#ffffff", "#14171c"]


def told(page: str) -> str:
    """What a reader reads, without figures and markup."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    body = body[: body.index("figure-data")] if "figure-data" in body else body
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("&#39;", "'")


def test_the_page_tells_the_result_the_limits_and_the_origin(written: str) -> None:
    text = told(written)
    for expected in (
        "cast changes exact match by",
        "0 of 6 pairs gain, 0 lose and 6 show neither after Holm's correction over 12 tests",
        "Free answers have no set of admissible answers, so present-past is not split.",
        "None of the 48 test examples of finance-sentiment is labelled negative",
        "read no label of the target",
        "right for these tasks alone",
        "p-values are mid-p values",
        "tiny-model (135 million parameters)",
        "decoded greedily",
        "abc123",
        "torch 2.13.0",
        "5.2 min",
        "cast-lens run --config run.toml",
    ):
        assert expected in text, expected
    (method,) = re.findall(r'<h2 id="method">.*?<ol>(.*?)</ol>', written, re.S)
    assert method.count("<li>") == 5


def test_the_configuration_in_the_page_is_toml(written: str) -> None:
    tomllib = pytest.importorskip("tomllib")
    (config,) = re.findall(r"<pre[^>]*>(.*?)</pre>", written, re.S)
    found = tomllib.loads(config.replace("&#34;", '"'))
    assert found["sources"] == list(synthetic.SOURCES)
    assert found["strengths"] == list(synthetic.STRENGTHS)


def test_tables_can_be_read_by_a_screen_reader(written: str) -> None:
    outline = Outline(written)
    assert all("scope" in attributes for tag, attributes in outline.tags if tag == "th")
    boxes = [attributes for _, attributes in outline.tags if attributes.get("class") == "scroll"]
    assert all(box["tabindex"] == "0" and box["role"] == "region" for box in boxes)
    assert len(boxes) == 4 + 1, "the tables of the chapter, the labels"
    assert ("html", {"lang": "en"}) in outline.tags
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_a_run_that_has_only_begun_still_has_a_page(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run", leave_out=(*synthetic.FRAMES, "versions", "model"))
    page = write_report(run).read_text(encoding="utf-8")
    assert "No result yet. The same command continues the experiment" in page
    assert "plotly-library" not in page, "nothing to draw"
    assert set(SECTIONS) - {"labels"} <= set(Outline(page).ids())


def test_a_chapter_shows_what_there_is(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run", leave_out=("cohesion", "alignment", "entropy", "projection"))
    found = figures(write_report(run).read_text(encoding="utf-8"))["figures"]
    assert "transfer_cosines" in found
    assert "transfer_cohesion" not in found


def test_a_chapter_that_cannot_be_read_lets_the_others_stand(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run", leave_out=GEOMETRY)
    other = run / "experiments" / "shots"
    other.mkdir()
    (other / "plan.json").write_text("[]")
    (other / "options.json").write_text("{}")
    pd.DataFrame({"colour": ["red"]}).to_parquet(other / "result.parquet")
    text = told(write_report(run).read_text(encoding="utf-8"))
    assert "This chapter cannot be read (KeyError: 'steps')" in text
    assert "cast changes exact match by" in text
    (other / "options.json").unlink()
    text = told(write_report(run).read_text(encoding="utf-8"))
    assert "This chapter was written by an earlier version of cast_lens" in text
    assert "cast changes exact match by" in text


@pytest.mark.parametrize("made", ["frames/outcomes/science.parquet", "experiments/shots/plan.json"])
def test_a_directory_of_an_earlier_version_says_what_it_is_and_what_to_do(tmp_path: Path, made: str) -> None:
    (tmp_path / made).parent.mkdir(parents=True)
    (tmp_path / made).write_text("[]")
    (tmp_path / "config.json").write_text('{"model": "tiny", "umap": true}')
    (tmp_path / "versions.json").write_text('{"cast_lens": "0.0.9"}')
    with pytest.raises(ValueError, match=r"earlier version of cast_lens \(0.0.9\).*with another --out"):
        write_report(tmp_path)


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run", leave_out=GEOMETRY)
    evil = "</script><script>alert(1)</script>"
    for name in ("result", "pairs", "split"):
        path = run / "experiments" / "transfer" / f"{name}.parquet"
        pd.read_parquet(path).replace({"target": {"finance-sentiment": evil}}).to_parquet(path)
    page = write_report(run).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert not Outline(page).open
    assert any(evil in str(trace) for trace in figures(page)["figures"]["transfer_matrix"]["data"])


def test_a_page_that_would_be_too_large_names_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = synthetic.write_run(tmp_path / "run", leave_out=GEOMETRY)
    size = len(write_report(run).read_bytes())
    monkeypatch.setattr(page_module, "LARGEST", size - 1)
    with caplog.at_level(logging.WARNING, "cast_lens"):
        page = write_report(run).read_text(encoding="utf-8")
    assert len(page.encode()) < size
    assert "Left out to keep this page small" in page
    assert "transfer_sweep_science" not in figures(page)["figures"]
    assert "leaves out Sweep: science to stay below 5 MB" in caplog.text


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run \(no config.json\)"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="holds no run"):
        write_figures(tmp_path / "nowhere")


def test_write_figures_writes_each_with_its_numbers(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run")
    written = write_figures(run, png="never")
    names = {path.name for path in written}
    assert {
        "transfer_gain.html",
        "transfer_gain.csv",
        "transfer_split.csv",
        "transfer_sweep_science.html",
        "transfer_projection_umap.html",
        "plotly.min.js",
    } <= names
    assert len(names) == 2 * 12 + 1
    pd.testing.assert_frame_equal(pd.read_csv(run / "figures" / "transfer_cohesion.csv"), synthetic.cohesion())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1.23456789, 1.235),
        (12.0, 12),
        (np.float32(0.5), 0.5),
        (np.nan, None),
        (np.inf, None),
        (np.array([[1.0, np.nan]]), [[1, None]]),
        ({"dtype": "i1", "bdata": "AAEC"}, [0, 1, 2]),
        ({"dtype": "f8", "bdata": FOUR, "shape": "2, 2"}, [[0, 1], [2, 3]]),
        ({"a": (1, "text", None, True)}, {"a": [1, "text", None, True]}),
    ],
)  # fmt: skip
def test_plain_json(given: object, expected: object) -> None:
    found = plain(given)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


def test_publishing_writes_the_same_figures_and_page(tmp_path: Path) -> None:
    run = synthetic.write_run(tmp_path / "run")
    figures = {path: path.read_bytes() for path in write_figures(run, png="never")}
    page = write_report(run).read_bytes()
    for path in (*figures, run / "report.html"):
        path.unlink()
    assert publish(run, png="never").read_bytes() == page
    assert {path: path.read_bytes() for path in (run / "figures").iterdir()}.keys() == figures.keys()
    numbers = [path for path in figures if path.suffix == ".csv"]
    assert numbers
    assert all(path.read_bytes() == figures[path] for path in numbers)
