"""A real JupyterLab in a real Chromium, where both are installed: figures and the view as a reader meets them."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser import Page, browse

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip("choreographer", reason="drives the browser; comes with kaleido")
LAB = shutil.which("jupyter-lab", path=str(Path(sys.executable).parent)) or shutil.which("jupyter-lab")
if LAB is None:
    pytest.skip("jupyter-lab is not installed (extra notebooks)", allow_module_level=True)
ROOT = Path(__file__).parent.parent.parent
CELLS = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport cast_lens as cl\nfrom tests.plots import synthetic",
    "cl.plots.plot_transfer_matrix(synthetic.transfer())",
    "from tests.explore import views\ncl.explore(views.differences(), n_bootstrap=20)",
)
START = 90
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(one => one.textContent)"
FRAME = "document.querySelector('iframe').contentDocument"
DRAWN = f"{FRAME}?.querySelector('.cast-explore')?.dataset.drawn"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    # A notebook that names no kernel opens with a dialog.
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "cells.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--allow-root", "--no-browser", f"--port={port}", "--ServerApp.token=", "--ServerApp.password="]
    command = [str(LAB), *options, "--LabApp.expose_app_in_browser=True"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/api")
            yield f"http://127.0.0.1:{port}/lab/tree/cells.ipynb?reset"
        finally:
            server.terminate()


def wait_for(url: str) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer in {START} s")


async def visit(page: Page, url: str) -> dict[str, Any]:
    await page.screen(1280, 1000)
    await page.command("Page.navigate", url=url)
    await page.wait(f"window.jupyterapp && {PROMPTS}.length === {len(CELLS)}")
    await page.value("window.jupyterapp.restored.then(() => true)")
    await asyncio.sleep(3)
    await page.value("window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
    await page.wait(f"{PROMPTS}.every(text => /\\d/.test(text))")
    await page.wait(DRAWN)
    found: dict[str, Any] = {
        "figure": await page.value(
            "(one => one && [one.querySelectorAll('.main-svg').length, one.textContent])"
            "(document.querySelectorAll('.jp-CodeCell')[1].querySelector('.jp-OutputArea-output'))"
        ),
        "before": await page.value(DRAWN),
    }
    await page.value(f"{FRAME}.querySelector('input[name=layer]').focus()")
    for kind in ("rawKeyDown", "keyUp"):
        await page.command(
            "Input.dispatchKeyEvent", type=kind, key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37
        )
    await page.wait(f"{DRAWN} !== {found['before']!r}")
    found["after"] = await page.value(DRAWN)
    found["cells"] = await page.value(f"{PROMPTS}.length")
    return found


def test_a_figure_is_drawn_or_says_why_not_and_keys_reach_the_view(address: str) -> None:
    found = browse(lambda page: visit(page, address))
    drawings, text = found["figure"]
    assert drawings or "pip install plotly" in text
    assert int(found["after"]) < int(found["before"])
    assert found["cells"] == len(CELLS), "a key for the slider is no command for the notebook"
