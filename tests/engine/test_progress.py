"""Bars: by default in a notebook and only there, not for what is over in a moment, and gone when the work is done."""

from __future__ import annotations

import sys
import types

import pytest

from cast_lens.engine import automatic, bars, progress


class Page:
    """What was drawn, in order."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def update(self, page: str) -> None:
        self.drawn.append(page)

    def display(self, page: str, *, display_id: bool) -> Page:
        assert display_id
        self.drawn.append(page)
        return self


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    drawn = Page()
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    display = types.SimpleNamespace(HTML=lambda text: text, display=drawn.display)
    monkeypatch.setitem(sys.modules, "IPython.display", display)  # type: ignore[arg-type]
    seconds = iter(range(0, 10_000, 2))
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: float(next(seconds))))
    return drawn


def test_outside_a_notebook_nothing_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [1, 2]
    assert automatic(items, "batches", 2) is items
    shell = types.SimpleNamespace(get_ipython=lambda: object())
    monkeypatch.setitem(sys.modules, "IPython", shell)  # type: ignore[arg-type]
    assert automatic(items, "batches", 2) is items


@pytest.mark.parametrize("drawing", [automatic, bars])
def test_a_notebook_shows_count_and_time_left_and_keeps_nothing(page: Page, drawing: progress.Progress) -> None:
    assert list(drawing(iter("abc"), "<batches>", 3)) == ["a", "b", "c"]
    assert "&lt;batches&gt;" in page.drawn[0]
    assert 'value="1" max="3"' in page.drawn[1]
    assert "1 of 3, 0:04, 0:08 left" in page.drawn[1]
    assert page.drawn[-1] == ""
    assert len(page.drawn) == 4


def test_what_is_quick_draws_nothing(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 100.0)
    assert list(automatic([1, 2], "batches", 2)) == [1, 2]
    assert not page.drawn


def test_a_loop_within_a_drawn_one_is_silent_and_one_after_it_is_not(page: Page) -> None:
    inner = [1]
    for _ in automatic([1], "cells", 1):
        assert automatic(inner, "batches", 1) is inner
    for _ in automatic([1, 2], "cells", 2):
        break  # as an error would
    assert automatic(inner, "batches", 1) is not inner
