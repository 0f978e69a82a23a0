"""A small text to train tokenizers on."""

from __future__ import annotations

WORDS = (
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "says", "hello", "to", "napoleon",
    "who", "loves", "chess", "in", "paris", "1815",
)  # fmt: skip


def corpus() -> list[str]:
    """Enough English-like text for a small vocabulary, without randomness."""
    lines = [" ".join(WORDS[(i * k + k) % len(WORDS)] for i in range(9)) for k in range(1, 120)]
    return [*lines, "[INST] hello [/INST] yes. <<SYS>>", "a: b; c! d? (e) 'f' \"g\" - h, i", "line one\nline two"]
