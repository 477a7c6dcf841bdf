"""The page in a real Chromium: it draws, moves, answers to the reader's theme and screen, and is silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cast_lens.report import write_report
from tests.browser import Page, browse
from tests.plots import synthetic

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip("choreographer", reason="drives the browser; comes with kaleido")

DRAWN = "document.querySelectorAll('[data-figure] .main-svg').length"
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
GROUND = "getComputedStyle(document.body).backgroundColor"
PAPER = "document.querySelector('[data-figure=transfer_gain]').layout.template.layout.paper_bgcolor"
SLIDERS = "[...document.querySelectorAll('.control input')]"


async def visit(page: Page, report: Path) -> dict[str, Any]:
    """Everything that the tests ask about, in one sitting."""
    found: dict[str, Any] = {}
    await page.screen(1280, 900)
    await page.go(report)
    found["undrawn"] = await page.value("[...document.querySelectorAll('[data-figure]')].filter(b => !b.data).length")
    found["drawn"] = await page.value(DRAWN)
    found["overflow at 1280"] = await page.value(WIDE)
    found["light"] = [await page.value(GROUND), await page.value(PAPER)]
    await slide(page, found)
    await hover(page, found)
    await page.screen(1280, 900, dark=True)
    await page.wait(f"{PAPER} === '#14171c'")
    found["dark"] = [await page.value(GROUND), await page.value(PAPER)]
    await page.screen(390, 800, dark=True)
    await page.wait("document.querySelector('[data-figure=transfer_matrix]').layout.xaxis2.domain[1] === 1")
    found["overflow at 390"] = await page.value(WIDE)
    found["widths at 390"] = await page.value(
        "[...document.querySelectorAll('[data-figure] .main-svg')].map(s => s.getBoundingClientRect().width)"
    )
    await page.screen(1280, 900)
    await page.wait("document.querySelector('[data-figure=transfer_matrix]').layout.xaxis2.domain[1] < 1")
    found["problems"], found["requests"] = page.problems, page.requests
    return found


async def slide(page: Page, found: dict[str, Any]) -> None:
    """Move the first layer slider with the keyboard; the others follow where they have that layer."""
    shown = "document.querySelector('[data-figure=transfer_cosines]').data[0].z[0][2]"
    found["sliders before"] = await page.value(f"{SLIDERS}.map(s => s.getAttribute('aria-valuetext'))")
    found["cosine before"] = await page.value(shown)
    await page.value(f"{SLIDERS}[0].focus()")
    for kind in ("keyDown", "keyUp"):
        await page.command("Input.dispatchKeyEvent", type=kind, key="Home", code="Home", windowsVirtualKeyCode=36)
    await page.wait(f"{SLIDERS}[0].value === '0'")
    found["sliders after"] = await page.value(f"{SLIDERS}.map(s => s.getAttribute('aria-valuetext'))")
    found["cosine after"] = await page.value(shown)
    found["mark"] = await page.value("document.querySelector('[data-figure=transfer_parallelism]').layout.shapes[0].x0")
    arrow = "document.querySelector('[data-figure=transfer_projection_pca]').data[0].x[0]"
    before = await page.value(arrow)
    await page.value(f"{SLIDERS}[2].value = 2; {SLIDERS}[2].dispatchEvent(new Event('input'))")
    found["arrow moved"] = before != await page.value(arrow)
    await page.value(
        "(s => { s.value = 3; s.dispatchEvent(new Event('change')); })(document.querySelector('.control select'))"
    )
    found["metric"] = await page.value(
        "document.querySelector('[data-figure^=transfer_sweep]').layout.coloraxis.colorbar.title.text"
    )


async def hover(page: Page, found: dict[str, Any]) -> None:
    """Point at the middle of the first sweep cell."""
    box = "document.querySelector('[data-figure^=transfer_sweep] .draglayer .nsewdrag')"
    await page.value(f"{box}.scrollIntoView({{block: 'center'}})")
    x, y = await page.value(f"(r => [r.left + r.width / 2, r.top + r.height / 2])({box}.getBoundingClientRect())")
    for step in (3.0, 0.0):
        await page.command("Input.dispatchMouseEvent", type="mouseMoved", x=x + step, y=y + step)
    await page.wait("document.querySelector('.hoverlayer .hovertext')")
    found["hover"] = await page.value("document.querySelector('.hoverlayer .hovertext').textContent")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    report = write_report(synthetic.write_run(tmp_path_factory.mktemp("runs") / "run"))
    answers: dict[str, Any] = browse(lambda page: visit(page, report))
    return answers


def test_nothing_is_logged_and_nothing_fetched(found: dict[str, Any]) -> None:
    assert found["problems"] == []
    assert [url.rsplit("/", 1)[-1] for url in found["requests"]] == ["report.html"]


def test_every_figure_is_drawn(found: dict[str, Any]) -> None:
    assert found["undrawn"] == 0
    assert found["drawn"] >= 12


def test_nothing_is_wider_than_the_screen(found: dict[str, Any]) -> None:
    assert found["overflow at 1280"] == found["overflow at 390"] == 0
    assert 0 < max(found["widths at 390"]) <= 390


def test_page_and_figures_follow_the_theme(found: dict[str, Any]) -> None:
    assert found["light"] == ["rgb(255, 255, 255)", "#ffffff"]
    assert found["dark"] == ["rgb(20, 23, 28)", "#14171c"]


def test_sliders_move_figures_by_keyboard_and_together(found: dict[str, Any]) -> None:
    assert found["sliders before"] == ["layer 18", "layer 24", "layer 12"], "18 was chosen"
    assert found["sliders after"] == ["layer 0", "layer 0", "layer 12"], "the last figure has no layer 0"
    assert found["mark"] == 0
    assert found["cosine before"] != found["cosine after"]
    assert found["arrow moved"]


def test_the_menu_changes_the_metric(found: dict[str, Any]) -> None:
    assert found["metric"] == "log-probability of the gold answer"


def test_hover_tells_the_cell(found: dict[str, Any]) -> None:
    assert "layer " in found["hover"]
    assert "n = 24" in found["hover"]
    assert "unsteered 20 %" in found["hover"]
