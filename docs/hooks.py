"""What the site takes from the rest of the checkout: notebooks, gallery, API pages, and links that leave ``docs/``.

Nothing is copied into ``docs/``: pages and pictures are handed to MkDocs as it builds. A link to a file of the checkout
that has a page points to that page; one to a source file keeps its words and loses its link.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md", "studies/expressivity/README.md")
# Rooms in the order in which things flow, with the question that brings one there.
ROOMS = {
    "tasks": "Tasks, examples, prompts",
    "models": "Loading a model",
    "engine": "Running it: capture, score, sweep, answer",
    "extraction": "Difference vectors",
    "vectors": "Steering vectors",
    "interventions": "What enters where",
    "steering": "Steering by hooks",
    "placebos": "Placebos",
    "evaluation": "Outcomes",
    "geometry": "Geometry",
    "selection": "Choosing samples",
    "methods": "Methods",
    "methods.atv": "Adaptive task vectors",
    "methods.adapters": "Adapters",
    "effects": "Effects on plain text",
    "stats": "Intervals and tests",
    "plots": "Figures",
    "explore": "The explorer",
    "experiments": "Experiments",
    "gguf": "GGUF files",
    "share": "Sharing vectors",
}
BADGE = re.compile(r"^\[!\[Open in Colab\].*\n+", re.MULTILINE)
ATTRIBUTE = re.compile(r"<[^>]+\s(?:src|href)=\"([^\"]+)\"")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the parts of the navigation that follow from the files that there are."""
    parts: dict[str, list[Any]] = {
        "Experiments": ["experiments/index.md", *_stored("experiments")],
        "Notebooks": [_page_of(path) for path in _notebooks()],
        "API": ["api/index.md", *({title: f"api/{room}.md"} for room, title in _rooms())],
    }
    if (ROOT / "docs" / "findings").is_dir():
        whole = ["findings.md"] if (ROOT / "docs" / "findings.md").exists() else []
        parts["Findings"] = [*whole, *_stored("findings", index=True)]
    nav: list[Any] = config.nav or []
    config.nav = [{key: parts.get(key, value)} for entry in nav for key, value in entry.items()]
    _place_the_rest(config.nav)
    return config


PLACES = {"serving.md": "How to", "scale.md": "How to", "coming-from.md": "How to", "architectures.md": "Concepts"}
"""Where pages go that the navigation does not name; all others go under More."""


def _place_the_rest(nav: list[Any]) -> None:
    """Pages of ``docs/`` and ``docs/howto`` that the navigation does not name."""
    named = set(re.findall(r"[\w./-]+\.md", repr(nav)))
    docs = ROOT / "docs"
    for path in sorted([*docs.glob("*.md"), *docs.glob("howto/*.md")]):
        name = path.relative_to(docs).as_posix()
        if name not in named:
            wanted = "How to" if name.startswith("howto/") else PLACES.get(name, "More")
            (part,) = (entry[wanted] for entry in nav if wanted in entry)
            part.append(name)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures of the checkout that are not in ``docs/``."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for path in sorted((ROOT / "figures").iterdir()):
        if path.suffix in (".png", ".csv", ".html", ".js"):
            files.append(File.generated(config, f"gallery/{path.name}", abs_src_path=str(path)))
    for path in _notebooks():
        for name, content in _notebook(path).items():
            files.append(File.generated(config, name, content=content))
    for room, title in _rooms():
        files.append(File.generated(config, f"api/{room}.md", content=_api(room, title)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are written for the checkout, turned into links of the site."""
    if page.file.src_uri == "api/index.md":
        markdown = markdown.replace("<!-- names -->", _names())
    if page.file.src_uri.startswith("api/"):
        return markdown
    here = page.file.src_uri
    home = posixpath.dirname(here if here in PAGES or here.startswith("notebooks/") else f"docs/{here}")

    def replace(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        # A picture may be the text of a link.
        text = LINK.sub(replace, text)
        if link.startswith(("http", "#", "mailto:")):
            return f"{mark}[{text}]({link})"
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(home, path))
        found = _in_site(target)
        if files.get_file_from_path(found) is None:
            # A source file has no page; what does not exist at all is left for MkDocs to refuse.
            return text if (ROOT / target).exists() else f"{mark}[{text}]({link})"
        relative = posixpath.relpath(found, posixpath.dirname(here) or ".")
        return f"{mark}[{text}]({relative}{'#' + anchor if anchor else ''})"

    fenced = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(replace, part) for part in fenced)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a page that shows or links a file which the site does not have; MkDocs looks at Markdown links only."""
    site = Path(config.site_dir)
    broken = []
    for page in sorted(site.rglob("*.html")):
        # Figures are pages of their own, with scripts inside.
        if page.is_relative_to(site / "gallery"):
            continue
        for link in set(ATTRIBUTE.findall(page.read_text(encoding="utf-8"))):
            path = unquote(link.partition("#")[0].partition("?")[0])
            if path and not re.match(r"[a-z]+:|//|/", path) and not (page.parent / path).exists():
                broken.append(f"{page.relative_to(site)}: {link}")
    if broken:
        raise PluginError("files that pages name and the site lacks:\n" + "\n".join(broken))


def _in_site(target: str) -> str:
    """Where the site has a file of the checkout."""
    if target == "README.md":
        return "index.md"
    if target == "docs/findings.md" and not (ROOT / target).exists():
        return "findings/index.md"
    if target == "notebooks/README.md":
        return "notebooks/index.md"
    if target.startswith("notebooks/") and target.endswith(".ipynb"):
        return target.removesuffix(".ipynb") + ".md"
    if target.startswith("figures/"):
        return "gallery/" + target.removeprefix("figures/")
    return target.removeprefix("docs/")


def _stored(folder: str, *, index: bool = False) -> list[str]:
    names = sorted(path.name for path in (ROOT / "docs" / folder).glob("*.md"))
    first = ["index.md"] if index and "index.md" in names else []
    return [f"{folder}/{name}" for name in [*first, *(name for name in names if name != "index.md")]]


def _notebooks() -> list[Path]:
    return [ROOT / "notebooks" / "README.md", *sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]


def _page_of(path: Path) -> str:
    return _in_site(path.relative_to(ROOT).as_posix())


def _notebook(path: Path) -> dict[str, str | bytes]:
    """A notebook with its stored outputs as a page, and its pictures."""
    page = _page_of(path)
    if path.suffix == ".md":
        return {page: path.read_text(encoding="utf-8")}
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", ())]
    for cell in notebook.cells:
        # A page is read without a network; the badge is for the notebook.
        cell.source = BADGE.sub("", cell.source)
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                # The picture says it; the interactive twin would need a library per figure.
                output["data"].pop("text/html", None)
    text, resources = MarkdownExporter(
        config={"NbConvertBase": {"display_data_priority": PRIORITY}}
    ).from_notebook_node(notebook, {"unique_key": path.stem, "output_files_dir": path.stem})
    found: dict[str, str | bytes] = {page: text}
    for name, content in resources["outputs"].items():
        found[posixpath.join("notebooks", name)] = content
    return found


PRIORITY = ["image/svg+xml", "image/png", "text/html", "text/markdown", "image/jpeg", "text/plain"]


def _rooms() -> list[tuple[str, str]]:
    return [(room, title) for room, title in ROOMS.items() if _source(room) is not None]


def _source(room: str) -> Path | None:
    base = ROOT / "cast_lens" / room.replace(".", "/")
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.exists()), None)


def _tree(room: str) -> ast.Module:
    source = _source(room)
    assert source is not None
    return ast.parse(source.read_text(encoding="utf-8"))


def _public(room: str) -> list[str]:
    """Names in ``__all__``, or those that a file without one defines."""
    tree = _tree(room)
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(name, ast.Name) and name.id == "__all__" for name in node.targets
        ):
            return [name for name in ast.literal_eval(node.value)]
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def _api(room: str, title: str) -> str:
    module = f"cast_lens.{room}"
    about = (ast.get_docstring(_tree(room)) or "").replace("``", "`")
    lines = [f"# {title}", "", f"`{module}`", "", about, ""]
    for name in _public(room):
        # Constants are explained where they are used.
        if name[0].isalpha() and not name.isupper():
            lines += [
                f"::: {_defined(room, name)}",
                "    options: {show_root_heading: true, show_root_toc_entry: true}",
                "",
            ]
    return "\n".join(lines)


def _defined(room: str, name: str) -> str:
    """The module that defines a name: the room's own ``capture`` may be a file and a function of it."""
    for node in _tree(room).body:
        if (
            isinstance(node, ast.ImportFrom)
            and node.level == 1
            and any((a.asname or a.name) == name for a in node.names)
        ):
            source = _source(room)
            home = room if source is not None and source.name == "__init__.py" else room.rpartition(".")[0]
            inside = ".".join(part for part in (home, node.module) if part)
            return _defined(inside, name) if _source(inside) is not None else f"cast_lens.{inside}.{name}"
    return f"cast_lens.{room}.{name}"


def _names() -> str:
    """What ``import cast_lens as cl`` gives, each with its room."""
    tree = ast.parse((ROOT / "cast_lens" / "__init__.py").read_text(encoding="utf-8"))
    homes = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_HOME"
    )
    rooms = dict(_rooms())
    lines = ["| `cl.` | room |", "|---|---|"]
    for name, room in sorted(homes.items(), key=lambda item: item[0].lower()):
        if room in rooms:
            link = f"[{rooms[room]}]({room}.md)"
            lines.append(f"| `{name}` | {link} |")
    return "\n".join(lines)
