"""What a view is made of: its numbers are those of the geometry, its texts those of the tasks."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import cast_lens
from cast_lens.explore import Exploration
from cast_lens.geometry import alignment_samples, parallelism, project
from cast_lens.plots import task_style
from cast_lens.tasks import load_task, zero_shot
from tests.explore import views

# Numbers for the browser are rounded to four digits.
FOUR_DIGITS = 1e-3


@pytest.fixture(scope="module")
def view() -> Exploration:
    return cast_lens.explore(views.differences(), n_bootstrap=20)


def test_tasks_and_layers_come_from_the_vectors(view: Exploration) -> None:
    assert view.tasks == ["review-sentiment", "science", "present-past"]
    assert view.layers == list(views.LAYERS)
    assert view.state()["layer"] == 11
    assert repr(view).startswith("Exploration of 3 tasks at 4 layers")


def test_samples_have_the_text_and_answer_of_their_task(view: Exploration) -> None:
    task = load_task("science")
    shown = view.data["tasks"][1]
    assert (shown["family"], shown["colour"]) == (task.family, task_style("science").colour)
    for sample, example in zip(shown["samples"], task.train, strict=False):
        assert (sample["id"], sample["gold"]) == (example.id, zero_shot(task, example).gold)
        assert sample["text"] == " ".join(example.input.split())


def test_points_are_those_of_project(view: Exploration) -> None:
    frame = project(views.differences(), 7).set_index(["task", "sample_id", "condition"])
    plane = view.data["projections"]["pca"]["planes"][1]
    third = views.differences()[2].sample_ids[4]
    points = np.reshape(plane["points"][2], (views.SAMPLES, 4))[4]
    expected = [frame.loc[("present-past", third, side), axis] for side in ("zero-shot", "few-shot") for axis in "xy"]
    np.testing.assert_allclose(points, expected, rtol=FOUR_DIGITS)
    assert plane["explained"] == pytest.approx(frame[["explained_x", "explained_y"]].iloc[0].tolist(), rel=FOUR_DIGITS)


def test_cosines_are_those_of_the_geometry(view: Exploration) -> None:
    pairs = parallelism(views.differences(), n_bootstrap=20)
    rows = pairs[(pairs["task_a"] == "science") & (pairs["task_b"] == "present-past")].sort_values("layer")
    (pair,) = [one for one in view.data["pairs"] if (one["a"], one["b"]) == ("science", "present-past")]
    for name in ("cosine", "low", "high", "null_pairs_low", "null_random_high"):
        np.testing.assert_allclose(pair[name], rows[name], rtol=FOUR_DIGITS)
    own = alignment_samples(views.differences()).query("task == other and task == 'science' and layer == 20")
    np.testing.assert_allclose(view.data["tasks"][1]["cosine"][3], own["cosine"], rtol=FOUR_DIGITS)
    lengths = views.differences()[1].at(20).norm(dim=-1)
    np.testing.assert_allclose(view.data["tasks"][1]["length"][3], lengths, rtol=FOUR_DIGITS)


def test_samples_of_unknown_tasks_show_their_ids() -> None:
    strangers = [views.vectors(name, place, ids=("a", "b", "c")) for place, name in enumerate(("my-task", "science"))]
    shown = cast_lens.explore(strangers, n_bootstrap=10).data["tasks"]
    assert [sample["text"] for task in shown for sample in task["samples"]] == [""] * 6, "ids that science lacks"
    assert shown[0]["family"] == "family not known"


def test_one_task_alone_has_no_pairs() -> None:
    assert cast_lens.explore(views.differences()[0]).data["pairs"] == []


def test_a_run_is_read_from_its_vectors(tmp_path: Path) -> None:
    view = cast_lens.explore(views.write_run(tmp_path / "run"), n_bootstrap=10)
    assert view.tasks == ["review-sentiment", "science", "present-past"], "those of the run that have vectors"
    assert len(view.data["pairs"]) == 3
    assert list(view.data["projections"]) == ["pca"]


def test_the_room_of_the_same_name_explores_too() -> None:
    for explore in (cast_lens.explore, sys.modules["cast_lens.explore"]):
        assert callable(explore)
        with pytest.raises(ValueError, match="one DifferenceVectors per task"):
            explore([])


def test_what_cannot_be_explored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        cast_lens.explore(tmp_path)
    (tmp_path / "config.json").write_text('{"sources": ["science"], "targets": []}')
    with pytest.raises(ValueError, match="no difference vectors"):
        cast_lens.explore(str(tmp_path))
    with pytest.raises(ValueError, match="one DifferenceVectors per task"):
        cast_lens.explore([])


def test_the_page_is_whole_and_its_data_cannot_end_it(tmp_path: Path, view: Exploration) -> None:
    odd = Exploration({**view.data, "title": "</script><b>&"})
    page = odd.save(tmp_path / "new" / "view.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    (state,) = re.findall(r'<script type="application/json" id="state">(.*?)</script>', page, flags=re.S)
    assert json.loads(state)["data"]["title"] == "</script><b>&"
    assert len(page) < 3_000_000


def test_a_notebook_shows_the_page_in_a_frame(view: Exploration) -> None:
    frame = view._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert frame.count('"') == 6, "the page inside is escaped"


def test_the_widget_shares_its_picks(view: Exploration) -> None:
    pytest.importorskip("anywidget")
    widget = view.widget()
    assert (widget.layer, widget.projection, widget.colour, widget.selected) == (11, "pca", "task", [])
    assert {"layer", "shown", "projection", "colour", "selected", "data", "library"} <= set(widget.keys)
    assert str(widget._esm).rstrip().endswith("export default { render };")


def test_without_anywidget_the_error_says_what_to_do(view: Exploration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cast-lens\[notebooks\]'"):
        view.widget()
