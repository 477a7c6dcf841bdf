"""How every figure looks: two templates, one colour per task, one mark per method.

All colours have a contrast of at least 3:1 on the light and on the dark background, so a figure changes theme
by its template alone. The ten of ``PALETTE`` stay apart under protanopia, deuteranopia and tritanopia
(simulated as by Machado et al. 2009); marks and dashes say the same a second time.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import plotly.graph_objects as go
import plotly.io
from plotly.io.base_renderers import MimetypeRenderer

Theme = Literal["light", "dark"]
BACKGROUND: dict[Theme, str] = {"light": "#ffffff", "dark": "#14171c"}
TEXT: dict[Theme, str] = {"light": "#1f2328", "dark": "#dfe3e8"}
GRID: dict[Theme, str] = {"light": "#e4e7eb", "dark": "#2b313a"}

PALETTE = ("#1e69b4", "#d2691e", "#1ea587", "#b478c3", "#5a693c", "#c300a5", "#8787ff", "#d20000", "#a55a78", "#962dff")
NEUTRAL = "#7a7f87"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

# Zero in the middle is the background, so that a cosine of zero looks like nothing.
DIVERGING: dict[Theme, list[list[float | str]]] = {
    "light": [[0, "#b35806"], [0.25, "#f1a340"], [0.5, "#f7f7f7"], [0.75, "#5aa2d4"], [1, "#12508f"]],
    "dark": [[0, "#ffb35c"], [0.25, "#b8660f"], [0.5, "#23282f"], [0.75, "#2b78b8"], [1, "#8fcbff"]],
}
SEQUENTIAL = "Cividis"

# Colour and mark. Tasks that one run often shows together have different colours.
_SLOTS = {
    "review-sentiment": (0, 0),
    "headline-topic": (1, 0),
    "science": (2, 0),
    "geography": (7, 0),
    "finance-sentiment": (9, 0),
    "question-type": (4, 0),
    "yes-no-facts": (6, 0),
    "everyday-sense": (8, 0),
    "present-past": (5, 1),
    "singular-plural": (3, 1),
    "country-capital": (0, 1),
    "antonym": (1, 1),
    "english-french": (2, 1),
    "english-german": (4, 1),
    "english-spanish": (7, 1),
    "sst2": (0, 2),
    "ag_news": (1, 2),
    "commonsense_qa": (2, 2),
    "arc_easy": (8, 2),
    "sciq": (7, 2),
    "arc_challenge": (9, 2),
    "financial_phrasebank": (4, 2),
    "social_i_qa": (6, 2),
    "medmcqa": (5, 2),
    "boolq": (3, 2),
    "mnli": (0, 3),
    "qqp": (1, 3),
    "race": (2, 3),
    "xnli": (4, 3),
    "sib200": (7, 3),
}


@dataclass(frozen=True, slots=True)
class TaskStyle:
    """How a task looks, wherever it appears."""

    colour: str
    symbol: str
    dash: str


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """How a method looks, wherever it appears."""

    colour: str
    symbol: str


def task_style(name: str) -> TaskStyle:
    """Colour, marker and dash of a task, from its name alone.

    Tasks that are often plotted together have different colours; a name that is not known here gets a place by
    its hash. Another language of a task (``headline-topic.de``) has the task's colour and a marker and dash
    of its own.
    """
    base, _, language = name.partition(".")
    colour, mark = _SLOTS.get(base, divmod(zlib.crc32(base.encode()) % (len(PALETTE) * len(SYMBOLS)), len(SYMBOLS)))
    mark = (mark + (1 + zlib.crc32(language.encode()) % 4 if language else 0)) % len(SYMBOLS)
    return TaskStyle(PALETTE[colour], SYMBOLS[mark], DASHES[mark])


_METHODS = {
    "zero-shot": MethodStyle(NEUTRAL, "line-ns-open"),
    "few-shot": MethodStyle("#1ea587", "square"),
    "cross-task few-shot": MethodStyle("#d2691e", "diamond"),
    "cast": MethodStyle("#1e69b4", "circle"),
    "cast (own vector)": MethodStyle("#962dff", "circle"),
    "placebo: random direction": MethodStyle(NEUTRAL, "circle-open"),
    "placebo: shuffled labels": MethodStyle(NEUTRAL, "diamond-open"),
    "placebo: zero vector": MethodStyle(NEUTRAL, "x-thin-open"),
}


def method_style(name: str) -> MethodStyle:
    """Colour and marker of a method; placebos are grey and hollow."""
    if name in _METHODS:
        return _METHODS[name]
    place = zlib.crc32(name.encode())
    if name.startswith("placebo"):
        return MethodStyle(NEUTRAL, ("square-open", "triangle-up-open", "cross-open")[place % 3])
    return MethodStyle(PALETTE[place % len(PALETTE)], SYMBOLS[place // len(PALETTE) % len(SYMBOLS)])


def method_styles(names: Sequence[str]) -> dict[str, MethodStyle]:
    """Styles of the methods of one figure, in which no two lines have one colour as long as there are colours.

    Tasks that name their vectors keep their own colour. A name without a fixed one whose colour is taken gets the
    next free one.
    """
    found = {name: task_method_style(name) for name in names}
    taken = {style.colour for name, style in found.items() if name in _METHODS or name in _SLOTS}
    for name in names:
        if name in _METHODS or name in _SLOTS or name.startswith("placebo"):
            continue
        first = PALETTE.index(found[name].colour)
        turned = [*PALETTE[first:], *PALETTE[:first]]
        colour = next((one for one in turned if one not in taken), found[name].colour)
        found[name] = MethodStyle(colour, found[name].symbol)
        taken.add(colour)
    return found


def task_method_style(name: str) -> MethodStyle:
    """The style of a method, or of a task whose vector is the method."""
    if name in _SLOTS:
        return MethodStyle(task_style(name).colour, task_style(name).symbol)
    return method_style(name)


# Few-shot or zero-shot in the name of a vector ("few-shot mean") does not make it a prompt.
_PROMPTING = re.compile(r"zero-shot$|(cross-task |retrieved )?few-shot(,.*)?$|batched")


def method_order(name: str) -> tuple[bool, bool, int, tuple[str | int, ...]]:
    """Sort key: prompting, steering, placebos; numbers in a name by their size."""
    known = list(_METHODS)
    place = known.index(name) if name in known else len(known)
    parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return name.startswith("placebo"), not _PROMPTING.match(name), place, tuple(parts)


def translucent(colour: str, alpha: float) -> str:
    """A hex colour with transparency, for bands."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def themed(figure: go.Figure, theme: Theme) -> go.Figure:
    """A copy of a figure in another theme.

    Raises:
        ValueError: when the theme is not ``light`` or ``dark``.
    """
    if theme not in BACKGROUND:
        raise ValueError(f"theme={theme!r} is unknown; choose light or dark")
    return go.Figure(figure).update_layout(template=template(theme))


def template(theme: Theme) -> go.layout.Template:
    """The look of a theme: fonts, background, grid, colour bars."""
    text, grid = TEXT[theme], GRID[theme]
    axis = {
        "gridcolor": grid,
        "linecolor": NEUTRAL,
        "zerolinecolor": NEUTRAL,
        "zerolinewidth": 1,
        "ticks": "outside",
        "tickcolor": NEUTRAL,
        "ticklen": 4,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 14}},
    }
    layout = go.Layout(
        font={
            "family": "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif",
            "size": 14,
            "color": text,
        },
        title={"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 14, "t": 14}, "font": {"size": 17}},
        paper_bgcolor=BACKGROUND[theme],
        plot_bgcolor=BACKGROUND[theme],
        colorway=list(PALETTE),
        coloraxis={
            "colorscale": DIVERGING[theme],
            "colorbar": {"outlinewidth": 0, "thickness": 14, "title": {"font": {"size": 14}}},
        },
        xaxis={**axis, "zeroline": False},
        yaxis=axis,
        legend={"bgcolor": "rgba(0,0,0,0)"},
        hoverlabel={"align": "left", "font": {"size": 13}},
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
    )
    return go.layout.Template(layout=layout)


# By name for figures made elsewhere: ``fig.update_layout(template="cast_lens_dark")``.
plotly.io.templates["cast_lens"] = template("light")
plotly.io.templates["cast_lens_dark"] = template("dark")


class InWords(MimetypeRenderer):
    """What a notebook shows in place of a figure where JupyterLab lacks plotly's extension: how to get it."""

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, str]:
        """The note, of lower rank than the figure wherever that can be shown."""
        title = escape(str(fig_dict.get("layout", {}).get("title", {}).get("text", "A figure")))
        return {
            "text/html": f"<p><b>{title}</b>: to see it, <code>pip install plotly</code> in the environment that runs "
            "JupyterLab and reload the page; or run <code>plotly.io.renderers.default = 'notebook'</code> and the cell "
            "again.</p>"
        }


def never_blank() -> None:
    """Where plotly hands JupyterLab a figure and nothing else, words stand in for a missing extension."""
    if plotly.io.renderers.default == "plotly_mimetype":
        plotly.io.renderers["cast_lens_words"] = InWords()
        plotly.io.renderers.default = "plotly_mimetype+cast_lens_words"


never_blank()
