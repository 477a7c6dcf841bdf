"""Figures on disk: pages that open offline, tables, pictures where there is a browser and a hint where not."""

from __future__ import annotations

import logging
import re
import struct
import sys
from pathlib import Path

import pandas as pd
import pytest

from cast_lens.plots import plot_cohesion, plot_parallelism, plot_projection, plot_sweep, write_figure, write_figures
from cast_lens.plots.files import still
from tests.plots import synthetic


def test_html_and_csv_are_written_and_share_one_library(tmp_path: Path) -> None:
    frame = synthetic.cohesion()
    folder = tmp_path / "new" / "figures"
    written = write_figures({name: (plot_cohesion(frame), frame) for name in ("one", "two")}, folder, png="never")
    assert sorted(path.name for path in written) == ["one.csv", "one.html", "plotly.min.js", "two.csv", "two.html"]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "one.csv"), frame)
    page = (folder / "one.html").read_text(encoding="utf-8")
    assert len(page) < 200_000, "the library stands beside the page, not in it"
    assert re.findall(r'src="([^"]+)"', page) == ["plotly.min.js"]
    before = (folder / "plotly.min.js").stat().st_mtime_ns
    write_figure(plot_cohesion(frame), frame, folder, "one", png="never")
    assert (folder / "plotly.min.js").stat().st_mtime_ns == before, "an equal library is left alone"


def test_without_kaleido_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    frame = synthetic.cohesion()
    with caplog.at_level(logging.WARNING, "cast_lens"):
        written = write_figure(plot_cohesion(frame), frame, tmp_path, "one")
    assert sorted(path.suffix for path in written) == [".csv", ".html", ".js"]
    (message,) = caplog.messages
    assert "kaleido is not installed" in message
    assert "pip install 'cast-lens[static]'" in message


def test_without_a_browser_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kaleido = pytest.importorskip("kaleido")
    from kaleido.errors import ChromeNotFoundError

    def no_browser(*_: object, **__: object) -> None:
        raise ChromeNotFoundError("nothing here")

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", no_browser)
    frame = synthetic.cohesion()
    written = write_figure(plot_cohesion(frame), frame, tmp_path, "one")
    assert (tmp_path / "one.html") in written
    (message,) = caplog.messages
    assert "no Chrome or Chromium was found" in message
    assert "plotly_get_chrome" in message


@pytest.mark.parametrize("raised", [True, False])
def test_a_browser_that_breaks_does_not_end_the_run(
    raised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kaleido = pytest.importorskip("kaleido")

    def broken(*_: object, **__: object) -> tuple[Exception, ...]:
        if raised:
            raise RuntimeError
        return (RuntimeError(),)

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", broken)
    (tmp_path / "one.png").write_bytes(b"of an earlier run")
    frame = synthetic.cohesion()
    written = write_figure(plot_cohesion(frame), frame, tmp_path, "one")
    assert (tmp_path / "one.html") in written
    assert not (tmp_path / "one.png").exists()
    assert "the browser failed: RuntimeError" in caplog.text


@pytest.mark.parametrize("name", ["", "a/b", "..", "../up"])
def test_a_name_must_be_a_file_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a plain file name"):
        write_figure(plot_cohesion(synthetic.cohesion()), synthetic.cohesion(), tmp_path, name)


def test_an_unknown_png_mode_is_refused(tmp_path: Path) -> None:
    # Under a run-time type checker the annotation speaks first.
    with pytest.raises((ValueError, TypeError), match=r"(?s)auto.*never"):
        write_figure(plot_cohesion(synthetic.cohesion()), synthetic.cohesion(), tmp_path, "x", png="yes")  # type: ignore[arg-type]


def test_a_picture_says_what_the_slider_was_set_to() -> None:
    figure = plot_projection(synthetic.projection(3), layer=12)
    picture = still(figure)
    assert picture.layout.title.text.endswith("(PCA), layer 12")
    assert (picture.layout.sliders, picture.layout.margin.t) == ((), None)
    assert picture.layout.height == figure.layout.height - 80
    assert len(figure.layout.sliders) == 1, "the page keeps its slider"
    curves = still(plot_parallelism(synthetic.parallelism()))
    assert curves.layout.title.text == "Parallelism of mean difference vectors", "it shows all layers"
    assert (curves.layout.shapes, curves.layout.sliders) == ((), ())
    assert still(plot_sweep(synthetic.sweep())).layout.updatemenus == ()


@pytest.mark.browser
@pytest.mark.slow
def test_a_picture_has_twice_the_pixels_of_the_layout(tmp_path: Path) -> None:
    figure = plot_cohesion(synthetic.cohesion())
    written = write_figure(figure, synthetic.cohesion(), tmp_path, "one")
    (picture,) = [path for path in written if path.suffix == ".png"]
    head = picture.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert struct.unpack(">II", head[16:24]) == (2000, 2 * figure.layout.height)
