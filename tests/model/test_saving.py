"""Folders written: transformers loads them as they are, a stream is saved as it comes, a wrong one is not."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file

from align.errors import WeightsError
from align.model.heads import scorer_from_policy
from align.model.llama import Llama
from align.model.weights import load_policy, load_scorer, save_policy, save_scorer
from tests.model.peers import policies, randomise, tiny

TOKENS = torch.randint(1, 97, (2, 11), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_policies_load_in_transformers(tied: bool, shard_bytes: int, tmp_path: Path) -> None:
    config = tiny(tie_embeddings=tied, rope_theta=77.0)
    ours = Llama(config)
    randomise(ours)
    save_policy(ours, config, tmp_path, shard_bytes=shard_bytes)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(theirs) is transformers.LlamaForCausalLM
    torch.testing.assert_close(theirs(TOKENS).logits, ours(TOKENS), rtol=1e-5, atol=1e-5)
    back = load_policy(tmp_path)
    assert torch.equal(back(TOKENS), ours(TOKENS))
    assert (back.lm_head.weight is back.model.embed_tokens.weight) == tied
    stored = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    assert ("lm_head.weight" in stored) != tied
    mode = stat.S_IMODE((tmp_path / "config.json").stat().st_mode)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o444 == mode & 0o444  # whoever reads one reads all


@pytest.mark.parametrize("left", [False, True])
def test_reward_models_load_in_transformers_with_the_same_score(left: bool, tmp_path: Path) -> None:
    policy, _ = policies(tiny())
    ours = scorer_from_policy(policy, seed=1)
    save_scorer(ours, tiny(), tmp_path)
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(theirs) is transformers.LlamaForSequenceClassification
    tokens, mask = torch.zeros(2, 14, dtype=torch.int64), torch.zeros(2, 14, dtype=torch.int64)
    places = [slice(3, 14), slice(9, 14)] if left else [slice(0, 11), slice(0, 5)]
    for row, place in enumerate(places):
        tokens[row, place] = TOKENS[row, : place.stop - place.start]
        mask[row, place] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(tokens, attention_mask=mask, position_ids=positions).logits[:, 0]
    at = torch.tensor([14 * row + place.stop - 1 for row, place in enumerate(places)])
    torch.testing.assert_close(load_scorer(tmp_path)(tokens, positions, mask, at=at), expected)
    for row, place in enumerate(places):
        alone = ours(tokens[row : row + 1, place])[0, -1]
        torch.testing.assert_close(expected[row], alone, rtol=1e-5, atol=1e-5)


def test_a_stream_of_gathered_tensors_is_saved_as_it_comes(tmp_path: Path) -> None:
    ours, _ = policies(tiny())
    held: list[int] = []

    def stream() -> Any:
        for name, parameter in ours.named_parameters():
            held.append(len(list(tmp_path.glob(".shard-*"))))
            yield name, parameter.detach().clone()

    save_policy(stream(), tiny(), tmp_path, dtype="bf16", shard_bytes=5_000)
    assert held[-1] >= 5  # shards were on disk before the last tensor was asked for
    assert load_policy(tmp_path, "bf16").lm_head.weight.equal(ours.lm_head.weight.bfloat16())
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert load_policy(tmp_path, "fp32").lm_head.weight.dtype == torch.float32


def test_a_smaller_save_leaves_no_older_shards(tmp_path: Path) -> None:
    ours, _ = policies(tiny())
    save_policy(ours, tiny(), tmp_path, shard_bytes=5_000)
    randomise(ours, 1)
    save_policy(ours, tiny(), tmp_path)
    assert [p.name for p in tmp_path.glob("model*")] == ["model.safetensors"]
    assert load_policy(tmp_path).lm_head.weight.equal(ours.lm_head.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n[:-1], "missing lm_head.weight"),
        (lambda n: [*n, ("score.weight", torch.ones(1, 32))], "score.weight: left over"),
        (lambda n: [*n, n[0]], "model.embed_tokens.weight: given twice"),
        (lambda n: [("model.embed_tokens.weight", torch.ones(97, 31)), *n[1:]], "expected shape [97, 32]"),
    ],
)
def test_a_wrong_stream_is_not_saved(change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    named = list(Llama(tiny()).named_parameters())
    with pytest.raises(WeightsError) as caught:
        save_policy(change(named), tiny(), tmp_path)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("model*"))


def test_the_tokenizer_loads_in_transformers_and_formats_turns(shared_data: Path, tmp_path: Path) -> None:
    """Ids of the chat format through transformers equal sentencepiece's, turn by turn (recipe page, section 2)."""
    source = shared_data / "llama2_tokenizer" / "tokenizer.model"
    config = tiny(vocab_size=32000)
    save_policy(Llama(config), config, tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(source.read_bytes())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(source))
    dialog = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " What is 17 + 25?\n"},
        {"role": "assistant", "content": "42."},
        {"role": "user", "content": "Thanks… and now?"},
    ]
    first = "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n What is 17 + 25? [/INST] 42. "
    expected = [1, *pieces.encode(first), 2, 1, *pieces.encode("[INST] Thanks… and now? [/INST]")]
    found = theirs.apply_chat_template(dialog, tokenize=True, return_dict=False)
    assert found == expected
    with pytest.raises(Exception, match="roles must be"):
        theirs.apply_chat_template([dialog[2], dialog[1]])
