"""Run every notebook from top to bottom in a fresh kernel; with ``--write``, keep the outputs.

Pictures are kept as static PNG where a browser is found, so that a notebook reads well without being run, and as
plotly's own data otherwise.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# A notebook is for a sitting: none may take more processor time than this, in seconds.
LIMIT = 100
# A table of results has a few thousand characters, plotly.js some millions.
LONGEST_HTML = 500_000
# What the kernel runs first: pictures wide enough for a title beside a menu, and without sliders and menus, which
# do nothing in a picture.
SETUP = """
import os
import warnings

import kaleido
import plotly.graph_objects as go
import plotly.io
from plotly.io._base_renderers import PngRenderer
from cast_lens.plots.files import still

# Without ipywidgets tqdm says that it has no bar to draw; no bar is drawn here either way.
warnings.filterwarnings("ignore", message="IProgress not found")
# The browser below has its options already.
warnings.filterwarnings("ignore", message="The kopts argument is ignored")


class Picture(PngRenderer):
    def to_mimebundle(self, fig_dict):
        return super().to_mimebundle(still(go.Figure(fig_dict)).to_dict())


# One browser for all pictures of a notebook: starting it takes seconds, a picture a fraction.
if os.environ["PLOTLY_RENDERER"] == "png":
    kaleido.start_sync_server(mathjax=False, silence_warnings=True)
plotly.io.renderers["png"] = Picture(width=900)
plotly.io.renderers.default = plotly.io.renderers.default  # looks the renderer up again
"""


def execute(path: Path, *, write: bool) -> float:
    """Run one notebook and give its processor seconds; an error in a cell ends everything."""
    notebook = nbformat.read(path, as_version=4)
    started = processor_seconds()
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(FOLDER)}}).execute()
    if write:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            for output in cell.get("outputs", ()):
                drop_pages(output)
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if not is_gone(output)]
        nbformat.write(notebook, path)
    return processor_seconds() - started


def processor_seconds() -> float:
    """Of all kernels that have ended: a busy machine makes a notebook wait, not work."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def drop_pages(output: nbformat.NotebookNode) -> None:
    """Leave out HTML that carries a whole library (``explore`` does); its text says what to call."""
    if len(output.get("data", {}).get("text/html", "")) > LONGEST_HTML:
        del output["data"]["text/html"]


def is_gone(output: nbformat.NotebookNode) -> bool:
    """Whether it was a progress bar, which leaves an empty page behind."""
    return output.get("data", {}).get("text/html") == ""


def run_all(names: list[str], *, write: bool) -> list[str]:
    """Run the notebooks, all of them without names; returns those that took too long."""
    paths = [Path(name) for name in names] or sorted(FOLDER.glob("[0-9]*.ipynb"))
    slow = []
    for path in paths:
        seconds = execute(path, write=write)
        print(f"{path.name}: {seconds:.0f} s of processor time", flush=True)
        if seconds > LIMIT:
            slow.append(path.name)
    return slow


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the outputs in the files")
    parser.add_argument("names", nargs="*", help="notebooks to run (all)")
    options = parser.parse_args()
    pictures = any(shutil.which(name) for name in BROWSERS)
    os.environ.setdefault("PLOTLY_RENDERER", "png" if pictures else "plotly_mimetype")
    with tempfile.TemporaryDirectory() as folder:
        startup = Path(folder) / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "pictures.py").write_text(SETUP)
        os.environ["IPYTHONDIR"] = folder
        slow = run_all(options.names, write=options.write)
    if slow:
        print(f"over {LIMIT} s of processor time: {', '.join(slow)}", file=sys.stderr)


if __name__ == "__main__":
    main()
