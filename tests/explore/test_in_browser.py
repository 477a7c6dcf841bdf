"""The view in a real Chromium: as a page, in a notebook's frame, and as the script of a widget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import cast_lens
from cast_lens.explore import Exploration
from tests.browser import Page, browse
from tests.explore import views

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip("choreographer", reason="drives the browser; comes with kaleido")

VIEW = "document.querySelector('.cast-explore')"
CLOUD = "document.querySelector('[data-panel=cloud]')"
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
GROUND = f"getComputedStyle({VIEW}).backgroundColor"
NARROW = f"{VIEW}.dataset.columns === '1' && {CLOUD}.layout.width < 390"


def choose(selector: str, value: str, event: str = "change") -> str:
    return (
        f"(field => {{ field.value = {value!r}; field.dispatchEvent(new Event({event!r})); }})"
        f"(document.querySelector({selector!r}))"
    )


async def visit(page: Page, path: Path) -> dict[str, Any]:
    """Everything that the tests of the page ask about, in one sitting."""
    found: dict[str, Any] = {}
    await page.screen(1280, 900)
    await page.go(path)
    found["panels"] = await page.value("[...document.querySelectorAll('[data-panel]')].map(p => p.data.length > 0)")
    found["light"] = await page.value(GROUND)
    await hover(page, found)
    await slide(page, found)
    await pick(page, found)
    await circle(page, found)
    await page.screen(1280, 900, dark=True)
    await page.wait(f"{VIEW}.dataset.theme === 'dark'")
    found["dark"] = await page.value(GROUND)
    found["overflow at 1280"] = await page.value(WIDE)
    await page.screen(390, 800, dark=True)
    await page.wait(NARROW)
    found["overflow at 390"] = await page.value(WIDE)
    await page.screen(450, 900, dark=True)
    await page.wait(f"{CLOUD}.layout.width > 390")
    narrow: dict[str, Any] = {}
    await circle(page, narrow)
    found["selection at 450"] = narrow["selection"]
    await press(page, found)
    found["problems"], found["requests"] = page.problems, page.requests
    return found


async def hover(page: Page, found: dict[str, Any]) -> None:
    """Point at the start of the first arrow."""
    await page.value(f"{CLOUD}.scrollIntoView({{block: 'center'}})")
    x, y = await page.value(
        f"(({{data, _fullLayout: l}}, r) => [r.left + l.xaxis.c2p(data[0].x[1]), r.top + l.yaxis.c2p(data[0].y[1])])"
        f"({CLOUD}, {CLOUD}.querySelector('.nsewdrag').getBoundingClientRect())"
    )
    for step in (3.0, 0.0):
        await page.command("Input.dispatchMouseEvent", type="mouseMoved", x=x + step, y=y + step)
    # Kept while it is there: on a busy machine it may be gone at the next question.
    await page.wait(f"window.seen = {CLOUD}.querySelector('.hovertext')?.textContent")
    found["hover"] = await page.value("window.seen")


async def slide(page: Page, found: dict[str, Any]) -> None:
    seen = (
        f"[{CLOUD}.data[0].x[2], document.querySelector('[data-panel=square]').data[0].z[0][1],"
        " document.querySelector('[data-panel=curves]').layout.shapes[0].x0]"
    )
    found["before"] = await page.value(seen)
    await page.value(choose("input[name=layer]", "3", "input"))
    await page.wait(f"{VIEW}.dataset.drawn === '20'")
    found["after"] = await page.value(seen)


async def press(page: Page, found: dict[str, Any]) -> None:
    """An arrow key on the slider, as a keyboard sends it; a notebook around the view must not see it."""
    await page.value(
        "(document.addEventListener('keydown', () => { window.leaked = true; }),"
        " document.querySelector('input[name=layer]').focus())"
    )
    before = await page.value(f"{VIEW}.dataset.drawn")
    for kind in ("rawKeyDown", "keyUp"):
        code = {"key": "ArrowLeft", "code": "ArrowLeft", "windowsVirtualKeyCode": 37}
        await page.command("Input.dispatchKeyEvent", type=kind, **code)
    await page.wait(f"{VIEW}.dataset.drawn !== {before!r}")
    found["layers by key"] = (int(before), int(await page.value(f"{VIEW}.dataset.drawn")))
    found["leaked"] = await page.value("window.leaked === true")


async def pick(page: Page, found: dict[str, Any]) -> None:
    """Colour by answer, then hide a task."""
    entries = f"{CLOUD}.data.filter(trace => trace.showlegend).map(trace => trace.name)"
    await page.value(choose("select[name=colour]", "answer"))
    await page.wait(f"{entries}.length")
    found["answers"] = await page.value(entries)
    await page.value("document.querySelector('input[value=science]').click()")
    await page.wait("document.querySelector('[data-panel=square]').data[0].x.length === 2")
    found["tasks"] = await page.value("document.querySelector('[data-panel=square]').data[0].x")
    found["drawn tasks"] = await page.value(
        f"[...new Set({CLOUD}.data.flatMap(trace => trace.customdata ?? []).map(one => one[0]))]"
    )


async def circle(page: Page, found: dict[str, Any]) -> None:
    """Draw a loop around all samples of the last panel with the mouse."""
    panel = "document.querySelector('[data-panel=agreement]')"
    await page.value(f"{panel}.scrollIntoView({{block: 'center'}})")
    left, top, right, bottom = await page.value(
        f"(r => [r.left + 3, r.top + 3, r.right - 3, r.bottom - 3])"
        f"({panel}.querySelector('.nsewdrag').getBoundingClientRect())"
    )
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top + 2)]
    mouse = {"button": "left", "clickCount": 1}
    await page.command("Input.dispatchMouseEvent", type="mousePressed", x=left, y=top, **mouse)
    for x, y in corners[1:]:
        await page.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
    await page.command("Input.dispatchMouseEvent", type="mouseReleased", x=left, y=top + 2, **mouse)
    await page.wait("document.querySelector('.selection tbody tr')")
    found["selection"] = await page.value("document.querySelector('.selection h3').textContent")
    found["first row"] = await page.value("document.querySelector('.selection tbody tr').textContent")
    await page.value("[...document.querySelectorAll('button')].find(b => b.textContent === 'clear selection').click()")
    await page.wait("document.querySelector('.selection').hidden")


@pytest.fixture(scope="module")
def view() -> Exploration:
    return cast_lens.explore(views.differences(), n_bootstrap=20)


@pytest.fixture(scope="module")
def found(view: Exploration, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = view.save(tmp_path_factory.mktemp("views") / "view.html")
    answers: dict[str, Any] = browse(lambda page: visit(page, path))
    return answers


def test_nothing_is_logged_and_nothing_fetched(found: dict[str, Any]) -> None:
    assert found["problems"] == []
    assert [url.rsplit("/", 1)[-1] for url in found["requests"]] == ["view.html"]


def test_every_panel_is_drawn_and_fits(found: dict[str, Any]) -> None:
    assert found["panels"] == [True] * 4
    assert found["overflow at 1280"] == found["overflow at 390"] == 0


def test_a_narrow_panel_can_be_circled_and_the_slider_moves_by_key(found: dict[str, Any]) -> None:
    assert found["selection at 450"] == found["selection"]
    before, after = found["layers by key"]
    assert after < before
    assert not found["leaked"]


def test_the_view_follows_the_theme(found: dict[str, Any]) -> None:
    assert (found["light"], found["dark"]) == ("rgb(255, 255, 255)", "rgb(20, 23, 28)")


def test_hover_shows_text_and_answer(found: dict[str, Any], view: Exploration) -> None:
    first = view.data["tasks"][0]["samples"][0]
    assert first["text"][:30] in found["hover"]
    assert f"answer: {first['gold']}" in found["hover"]
    assert "zero-shot" in found["hover"]


def test_the_slider_moves_arrows_cosines_and_mark(found: dict[str, Any]) -> None:
    assert all(before != after for before, after in zip(found["before"], found["after"], strict=True))
    assert (found["before"][2], found["after"][2]) == (11, 20)


def test_the_task_picker_hides_a_task(found: dict[str, Any]) -> None:
    assert found["tasks"] == found["drawn tasks"] == ["review-sentiment", "present-past"]


def test_colours_by_answer_name_the_answers(found: dict[str, Any]) -> None:
    assert {"positive", "negative", "other answers"} <= set(found["answers"])


def test_a_loop_selects_in_both_panels_and_lists_the_samples(found: dict[str, Any], view: Exploration) -> None:
    assert found["selection"] == f"{2 * views.SAMPLES} selected samples"
    first = view.data["tasks"][0]["samples"][0]
    assert found["first row"].startswith(f"review-sentiment{first['text']}{first['gold']}")


def test_a_frame_of_a_notebook_is_as_high_as_the_page(tmp_path: Path, view: Exploration) -> None:
    cell = tmp_path / "cell.html"
    cell.write_text(f'<!doctype html><link rel="icon" href="data:,">{view._repr_html_()}', encoding="utf-8")
    ready = "document.querySelector('iframe')?.contentDocument?.documentElement?.dataset.ready === 'yes'"
    inside = "document.querySelector('iframe').contentDocument.documentElement"

    async def look(page: Page) -> tuple[bool, list[str]]:
        await page.screen(1000, 800)
        await page.go(cell, until=ready)
        await page.wait(f"Math.abs({inside}.scrollHeight - document.querySelector('iframe').clientHeight) < 12")
        return await page.value(f"{inside}.scrollWidth <= {inside}.clientWidth"), page.problems

    assert browse(look) == (True, [])


WIDGET = """<!doctype html><link rel="icon" href="data:,"><div id="cell"></div>
<script type="text/plain" id="esm">{esm}</script><script type="application/json" id="state">{state}</script>
<script type="module">
const url = URL.createObjectURL(new Blob([document.getElementById("esm").textContent], {{ type: "text/javascript" }}));
const {{ default: front }} = await import(url);
const values = JSON.parse(document.getElementById("state").textContent);
const heard = {{}};
window.saved = 0;
window.model = {{
  get: (name) => values[name],
  set: (name, value) => {{ values[name] = value; (heard[`change:${{name}}`] ?? []).forEach((call) => call()); }},
  on: (name, call) => (heard[name] ??= []).push(call),
  off: (name, call) => {{ heard[name] = heard[name].filter((one) => one !== call); }},
  save_changes: () => {{ window.saved += 1; }},
}};
window.end = await front.render({{ model: window.model, el: document.getElementById("cell") }});
document.documentElement.dataset.ready = "yes";
</script>"""


def test_the_widget_follows_the_kernel_and_tells_it(tmp_path: Path, view: Exploration) -> None:
    pytest.importorskip("anywidget")
    widget = view.widget()
    state = json.dumps({**view.state(), "library": widget.library}).replace("<", "\\u003c")
    cell = tmp_path / "widget.html"
    cell.write_text(WIDGET.format(esm=str(widget._esm), state=state), encoding="utf-8")

    async def look(page: Page) -> dict[str, Any]:
        found: dict[str, Any] = {}
        await page.screen(1000, 800)
        await page.go(cell)
        await page.value("model.set('layer', 3)")
        await page.wait(f"{VIEW}.dataset.drawn === '3'")
        found["slider"] = await page.value("document.querySelector('input[name=layer]').value")
        await page.value("document.querySelector('input[value=science]').click()")
        found["kernel"] = await page.value("[model.get('shown'), saved]")
        found["ended"] = await page.value("(end(), document.querySelector('[data-panel=cloud]').data === undefined)")
        found["problems"] = page.problems
        return found

    found = browse(look)
    assert found["problems"] == []
    assert found["slider"] == "0"
    assert found["kernel"] == [["review-sentiment", "present-past"], 1]
    assert found["ended"], "a cell that is cleared frees its figures"
