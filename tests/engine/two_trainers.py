"""What ``test_two_trainers.py`` runs under torchrun. Rank 0 writes its findings as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from align.data.tokenizer import Tokenizer
from align.engine import dist
from align.engine.zero_state import gathered
from tests.engine.small import LORA, engine, gap, layouts, model, moments, oracle, rows, step


def main(folder: Path) -> None:
    dist.setup()
    documents = rows(Tokenizer(folder / "tokenizer.model"))
    mine = layouts(documents, dist.rank(), dist.world_size())
    findings: dict[str, float] = {}

    loss, gradient = oracle(documents, model())
    for stage, names in ((0, list(mine)), (1, ["full rows"]), (2, ["padded"]), (3, ["quarter rows, one a pass"])):
        for name in names:
            with engine(stage) as trained:
                found = step(trained, mine[name]).losses["loss"]
                findings[f"zero{stage} {name}"] = max(abs(found - loss), gap(moments(trained), gradient))

    # stages 1 and 2 sum equal parts only, so each rank has as many micro-batches there
    for stage, layout in ((0, "padded"), (1, "padded"), (2, "full rows"), (3, "single rows")):
        kept = {}
        for mode in ("none", "selective", "full"):
            with engine(stage, checkpointing=mode) as trained:
                for _ in range(2):
                    step(trained, mine[layout])
                kept[mode] = dict(gathered(trained))
        for mode in ("selective", "full"):
            findings[f"zero{stage} {mode}"] = gap(kept[mode], kept["none"])

    loss, gradient = oracle(documents, model(LORA))
    start = dict(model(LORA).named_parameters())
    for stage in (0, 1, 2, 3):
        with engine(stage, lora=LORA, checkpointing="selective") as trained:
            found = step(trained, mine["padded"]).losses["loss"]
            findings[f"zero{stage} adapters"] = max(abs(found - loss), gap(moments(trained), gradient))
            frozen = {name: tensor for name, tensor in gathered(trained) if "lora_" not in name}
        findings[f"zero{stage} base"] = max(
            float((tensor - start[name]).abs().max()) for name, tensor in frozen.items()
        )
    if dist.is_main():
        (folder / "findings.json").write_text(json.dumps(findings))
    dist.shutdown()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
