"""Which languages tasks have, by their names, before any of them is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..tasks import Task
from ..tasks.formats import discover
from ..tasks.loading import canonical
from ..tasks.starter import starter_names
from ..tasks.types import is_language
from .config import RunConfig


@dataclass(frozen=True, slots=True)
class Family:
    """One task in several languages.

    Attributes:
        base: its name without a language.
        home: the language of the configured source.
        names: task by language, the home language first.
    """

    base: str
    home: str
    names: dict[str, str]

    @property
    def others(self) -> list[str]:
        """The languages beside the home language."""
        return [language for language in self.names if language != self.home]


def split_name(name: str) -> tuple[str, str]:
    """Task and language of a name; English where it names none."""
    base, _, language = canonical(name).partition(".")
    return (base, language) if is_language(language) else (canonical(name), "en")


def families(config: RunConfig, languages: tuple[str, ...] = ()) -> list[Family]:
    """The sources that have other languages, in the order of the configuration.

    Args:
        config: gives the sources.
        languages: which are wanted; empty for all that there are.

    Raises:
        ValueError: when no source has another language, with the tasks that have some; a language that no source
            has; hub tasks without ``languages``, which cannot be listed.
    """
    known = _known(config, languages)
    found: dict[str, Family] = {}
    for source in config.sources:
        base, home = split_name(source)
        others = {
            language: name
            for language, name in known.get(base, {}).items()
            if language != home and (not languages or language in languages)
        }
        if others and base not in found:
            found[base] = Family(base, home, {home: source, **others})
    if not found:
        raise ValueError(_nothing(config, known, languages))
    missing = set(languages) - {language for family in found.values() for language in family.names}
    if missing:
        raise ValueError(
            f"languages={sorted(missing)}: no source has them; they have "
            + "; ".join(f"{base} ({', '.join(known[base])})" for base in found)
        )
    return list(found.values())


def check_parallel(family: Family, tasks: dict[str, Task]) -> None:
    """Refuse families in which one language trains on what another one tests.

    Raises:
        ValueError: when items of a test split are in another language's train or validation split under their id.
    """
    for target in family.names.values():
        tested = {example.id for example in tasks[target].test}
        for source in family.names.values():
            own = tasks[source]
            shared = [example.id for example in (*own.train, *own.validation) if example.id in tested]
            if source != target and shared:
                raise ValueError(
                    f"{len(shared)} items of the test split of {target!r} are in the train or validation split of "
                    f"{source!r} ({', '.join(shared[:3])}): a vector would be taken from what it is tested on; split "
                    "parallel tasks alike, or give items that are not translations ids of their own"
                )


def _known(config: RunConfig, languages: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Names by task and language."""
    if config.hub:
        if not languages:
            raise ValueError("languages of hub tasks cannot be listed; name them, languages=('de', 'fr') for example")
        names = [
            base if language == "en" else f"{base}.{language}"
            for base in dict.fromkeys(split_name(source)[0] for source in config.sources)
            for language in languages
        ]
    else:
        names = [*(discover(Path(config.tasks)) if config.tasks else ()), *starter_names()]
    found: dict[str, dict[str, str]] = {}
    for name in names:
        base, language = split_name(name)
        found.setdefault(base, {}).setdefault(language, name)
    return found


def _nothing(config: RunConfig, known: dict[str, dict[str, str]], languages: tuple[str, ...]) -> str:
    wanted = f" among languages={list(languages)}" if languages else ""
    have = "; ".join(f"{base} ({', '.join(own)})" for base, own in known.items() if len(own) > 1)
    return (
        f"none of sources={list(config.sources)} has another language{wanted}; "
        f"tasks that have: {have or 'none'}; give one of these as source"
    )
