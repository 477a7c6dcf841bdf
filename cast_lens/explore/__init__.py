"""One view of the difference vectors of several tasks, to pick and turn by hand: arrows, cosines, parallelism,
single samples.

- ``explore``: from a run directory, or from vectors;
- ``Exploration``: shows itself in a notebook, ``save`` writes a page, ``widget`` talks to the kernel.

Everything that the view may show is computed once; picking happens in the browser. So one HTML page, plotly.js
inside, is the view in a notebook cell (in a frame), on disk, and with no kernel and no network, and needs nothing
that the package does not already have. The same script is the front end of an anywidget (extra ``notebooks``), for
those who want to set the layer from Python or to read which samples they circled. It is anywidget and not plotly's
``FigureWidget``: that one sends every redraw through the kernel, so it does nothing in a saved page, and it has no
task list or slider of its own without more widgets around it.
"""

import sys
from types import ModuleType
from typing import Any

from .view import Exploration, explore

__all__ = ["Exploration", "explore"]


class _Callable(ModuleType):
    """This package, which ``cast_lens.explore`` also names once it has been imported: calling it explores."""

    def __call__(self, *args: Any, **options: Any) -> Exploration:
        return explore(*args, **options)


sys.modules[__name__].__class__ = _Callable
