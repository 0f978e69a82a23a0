"""The practice world: a small synthetic language with people who rate it and a truth that is known (docs/world.md)."""
