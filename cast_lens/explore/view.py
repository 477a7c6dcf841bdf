"""An ``Exploration``: in a notebook, as a page on disk, or as an anywidget that shares its picks with the kernel."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..files import atomic_write
from ..report.packing import as_script, library

HOW_TO = (
    "widget() needs anywidget: pip install 'cast-lens[notebooks]'. Without it the exploration shows itself as the last "
    "line of a cell, and save('explore.html') writes it as a page"
)
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
        folder = Environment(loader=PackageLoader("cast_lens", "templates"), autoescape=True, undefined=StrictUndefined)
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


def make_widget(state: Mapping[str, Any]) -> Any:
    """An ``anywidget.AnyWidget`` with the given state.

    Raises:
        ModuleNotFoundError: when anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise ModuleNotFoundError(HOW_TO) from None
    folder = resources.files("cast_lens") / "templates"
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("explore.js", "explore.css"))
    kinds = {"layer": traitlets.Int, "projection": traitlets.Unicode, "colour": traitlets.Unicode}
    traits = {
        name: kinds.get(name, traitlets.Dict if name == "data" else traitlets.List)().tag(sync=True) for name in state
    }
    members = {
        "__doc__": "Layer, tasks shown, projection, colour and selected samples, shared with the browser.",
        "_esm": f"{script}\nexport default {{ render }};\n",
        "_css": style,
        "library": traitlets.Unicode().tag(sync=True),
        **traits,
    }
    kind = type("ExplorationWidget", (anywidget.AnyWidget,), members)
    return kind(library=library(), **state)
