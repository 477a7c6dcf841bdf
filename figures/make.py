"""Rebuild the gallery: every figure as html, png and csv into this folder.

The default run on the embedded model (continued, or left alone when it is finished) gives most of them, small studies
of one of its vectors the others.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd

from cast_lens.engine import bars
from cast_lens.experiments import RunConfig, run
from cast_lens.plots import write_figures
from cast_lens.report import publish
from studies import studies

FOLDER = Path(__file__).parent
ENDINGS = (".html", ".png", ".csv", ".js")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/latest"), help="run directory, continued if begun"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small run and small studies: what figures look like"
    )
    parser.add_argument("--to", type=Path, default=FOLDER, help="folder of the gallery")
    options = parser.parse_args()
    config = RunConfig(**RunConfig.quick({})) if options.quick else RunConfig()
    publish(run(config, options.out, progress=bars, say=print))
    options.to.mkdir(parents=True, exist_ok=True)
    for old in options.to.iterdir():
        if old.suffix in ENDINGS:
            old.unlink()
    for path in sorted((options.out / "figures").iterdir()):
        shutil.copy2(path, options.to / gallery_name(path.name))
    chosen = pd.read_parquet(options.out / "experiments" / "transfer" / "settings.parquet")
    settings = {row.source: (int(row.layer), float(row.strength)) for row in chosen.itertuples()}
    made = {}
    for name, one in studies(config, options.out, settings, n=config.test):
        print(f"Study: {name}")
        made[name] = one
    write_figures(made, options.to)
    for path in sorted(options.to.iterdir()):
        if path.suffix in ENDINGS:
            print(path)


def gallery_name(name: str) -> str:
    """A figure of the main job without the name of the job, but for the matrix, which would not say of what."""
    return name if name.startswith("transfer_matrix") else name.removeprefix("transfer_")


if __name__ == "__main__":
    main()
