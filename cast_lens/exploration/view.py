"""An ``Exploration``: in a notebook, as a file, or as a widget."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import atomic_write
from ..report.packing import as_script, library

HEIGHT = 1180
"""Pixels of the frame in a notebook until the page has measured itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Exploration:
    """A view of difference vectors, ready to be shown.

    Attributes:
        data: everything that the view may show, as plain data.
    """

    data: Mapping[str, Any]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return [task["name"] for task in self.data["tasks"]]

    @property
    def layers(self) -> list[int]:
        """Layers of the slider."""
        return list(self.data["layers"])

    def state(self) -> dict[str, Any]:
        """What is picked at first: every task, the middle layer, PCA, colours by task, no selection."""
        return {
            "data": self.data,
            "layer": self.layers[len(self.layers) // 2],
            "shown": self.tasks,
            "projection": "pca",
            "colour": "task",
            "selected": [],
        }

    def html(self) -> str:
        """The view as one page, plotly.js inside: no network, no kernel."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        folder = Environment(
            loader=PackageLoader("cast_lens", "templates"), autoescape=True, undefined=StrictUndefined
        )
        page = folder.get_template("explore.html.j2")
        return page.render(title=self.data["title"], state=as_script(self.state()), library=library())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; any browser opens it."""
        return atomic_write(Path(path), self.html().encode())

    def widget(self) -> Any:
        """The view as an anywidget: ``layer``, ``shown``, ``projection``, ``colour`` and ``selected`` can be read and
        set from Python.

        Raises:
            ModuleNotFoundError: when anywidget is not installed.
        """
        from .widget import make_widget

        return make_widget(self.state())

    def _repr_html_(self) -> str:
        page = html.escape(self.html(), quote=True)
        return (
            f'<iframe srcdoc="{page}" title="{html.escape(self.data["title"])}" '
            f'style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return (
            f"Exploration of {len(self.tasks)} tasks at {len(self.layers)} layers; a notebook shows it, "
            "save('explore.html') writes it as a page"
        )
