"""Rebuild the gallery: one default run on the embedded model, every figure as html, png and csv into this folder."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from cast_lens.engine import bars
from cast_lens.experiments import RunConfig, run

FOLDER = Path(__file__).parent
ENDINGS = (".html", ".png", ".csv", ".js")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/latest"), help="run directory, continued if begun")
    options = parser.parse_args()
    run(RunConfig(), options.out, progress=bars, say=print)
    for old in FOLDER.iterdir():
        if old.suffix in ENDINGS:
            old.unlink()
    for path in sorted((options.out / "figures").iterdir()):
        shutil.copy2(path, FOLDER / path.name)
        print(FOLDER.name + "/" + path.name)


if __name__ == "__main__":
    main()
