"""Small tasks made in memory, for tests that need a whole task and no particular one."""

from __future__ import annotations

from cast_lens.tasks import Example, Task, Template

LABELS = ("good", "bad")


def label_task(name: str = "mood", *, train: int = 14, validation: int = 4, test: int = 5) -> Task:
    """Two label words, balanced; every input is its own."""
    total = train + validation + test
    examples = [Example(f"{name}-{i:03d}", f"{name} item number {i}", LABELS[i % 2]) for i in range(total)]
    return Task(
        name,
        "classification",
        "classification",
        Template("test", "Text: {input}\nLabel:"),
        "Say good or bad.",
        LABELS,
        tuple(examples[:train]),
        tuple(examples[train : train + validation]),
        tuple(examples[train + validation :]),
        origin="test",
    )


def word_task(name: str = "double", *, train: int = 12, validation: int = 4, test: int = 4) -> Task:
    """Free answers."""
    words = [f"w{i}" for i in range(train + validation + test)]
    examples = [Example(f"{name}-{i}", word, word + word) for i, word in enumerate(words)]
    return Task(
        name,
        "free",
        "word",
        Template("test-word", "Q: {input}\nA:", definition=""),
        "",
        (),
        tuple(examples[:train]),
        tuple(examples[train : train + validation]),
        tuple(examples[train + validation :]),
        origin="test",
    )
