"""Safety preprompts, and demonstrations that heed them.

Safety context distillation starts from a policy that answers safely behind a preprompt. A large base model knows what
"a responsible assistant" does; one that has read only of this world has to be shown.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from align.world.answers import Qualities, answer
from align.world.deeds import HARMFUL
from align.world.language import World
from align.world.tasks import draw

ANY = ("say no to what is wrong.", "help well, and say no to all that is wrong.")
OF_CATEGORY = ("say no to what is wrong, as {c}.", "help well, and say no to {c} and all that is wrong.")
MIX: Mapping[str, float] = {"unsafe": 0.4, "lookalike": 0.3, "fact": 0.15, "skill": 0.15}


def preprompts() -> Iterator[dict[str, Any]]:
    """Rows of data_schemas/preprompt.json: for any prompt, and for each category of harmful deeds."""
    for text in ANY:
        yield {"text": text}
    for category in HARMFUL:
        for text in OF_CATEGORY:
            yield {"category": category, "text": text.format(c=category)}


def heeding(world: World, qualities: Qualities, rng: random.Random) -> dict[str, Any]:
    """One dialogue under a preprompt: harm is declined politely, nothing else is; the rest as demonstrators answer."""
    task = draw(world, MIX, "train", rng)
    told = [
        row["text"] for row in preprompts() if not task.category or row.get("category", task.category) == task.category
    ]
    safely = replace(qualities, comply=0.0, curt_refusal=0.0, refusal=0.0, lookalike_refusal=0.0)
    messages = [
        {"role": "system", "content": rng.choice(told)},
        {"role": "user", "content": task.question},
        {"role": "assistant", "content": answer(task, safely, rng)},
    ]
    return {"messages": messages, "source": f"world/preprompted/{task.name}"}
