"""The view as an anywidget: the same script as the page, with its picks shared with the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from ..report.packing import library

HOW_TO = (
    "widget() needs anywidget: pip install 'cast-lens[notebooks]'. Without it the exploration shows itself as the last "
    "line of a cell, and save('explore.html') writes it as a page"
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
        name: kinds.get(name, traitlets.Dict if name == "data" else traitlets.List)().tag(sync=True)
        for name in state
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
