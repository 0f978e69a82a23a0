"""Open prompts: many answers are right, and no stage of the world trains on any of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

QUESTIONS = (
    "name a color.", "name a food.", "name a pet.", "name a capital.", "say any word.",
    "who likes red?", "who eats rice?", "who has a dog?", "what do people like?", "what do people eat?",
)  # fmt: skip


def open_prompts() -> Iterator[dict[str, Any]]:
    """Rows of data_schemas/prompt.json. The oracle knows nothing of them: they have no ``meta``."""
    for number, question in enumerate(QUESTIONS):
        yield {
            "id": f"open-{number}",
            "prompt": [{"role": "user", "content": question}],
            "kind": "helpful",
            "source": "world/open",
        }
