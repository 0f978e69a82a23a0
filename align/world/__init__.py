"""The practice world: a small synthetic language, people who rate it, and the truth known (docs/world.md)."""
