"""Run every notebook from top to bottom in a fresh kernel; with ``--write``, keep the outputs.

Pictures are kept as static PNG beside plotly's own data where a browser is found, so that a notebook reads well
without being run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# A notebook is for a sitting: on two cores none may take longer than this, in seconds.
LIMIT = 120


def execute(path: Path, *, write: bool) -> float:
    """Run one notebook and give its seconds; an error in a cell ends everything."""
    notebook = nbformat.read(path, as_version=4)
    started = time.time()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    if write:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
        nbformat.write(notebook, path)
    return time.time() - started


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the outputs in the files")
    parser.add_argument("names", nargs="*", help="notebooks to run (all)")
    options = parser.parse_args()
    pictures = any(shutil.which(name) for name in BROWSERS)
    os.environ.setdefault("PLOTLY_RENDERER", "png" if pictures else "plotly_mimetype")
    paths = [Path(name) for name in options.names] or sorted(FOLDER.glob("[0-9]*.ipynb"))
    slow = []
    for path in paths:
        seconds = execute(path, write=options.write)
        print(f"{path.name}: {seconds:.0f} s", flush=True)
        if seconds > LIMIT:
            slow.append(path.name)
    if slow:
        print(f"over {LIMIT} s: {', '.join(slow)}", file=sys.stderr)


if __name__ == "__main__":
    main()
