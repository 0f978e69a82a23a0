"""One file, one stage, one readable experiment. Each offers ``Recipe`` and ``run(recipe, out)``."""
