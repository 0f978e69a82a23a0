"""Reward models of other architectures by their folder, beside transformers called by hand."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from align.errors import ArtifactError, DataError, TemplateError, WeightsError
from align.rollout.reward_model import Layout, load_reward_model

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "<user>",
    "<answer>",
    "what",
    "is",
    "the",
    "time",
    "it",
    "noon",
    "well",
    "I",
    "am",
]
CHAT = "{% for m in messages %}{{ '<user> ' if m.role == 'user' else '<answer> ' }}{{ m.content }} [SEP] {% endfor %}"
ASKED = {"role": "user", "content": "what is the time"}
DIALOGS = [
    [ASKED, {"role": "assistant", "content": text}] for text in ("it is noon", "I am well I am", "noon", "it is noon")
]


def chatty(folder: Path, pad: str | None, chat: str) -> None:
    """A tokenizer of whole words with a chat template."""
    made = FastTokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = WhitespaceSplit()
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, unk_token="[UNK]", model_max_length=24
    )
    found.chat_template = chat
    found.save_pretrained(folder)


def save(folder: Path, model: Any, chat: str = CHAT, pad: str | None = "[PAD]") -> Path:
    """The model with random weights, and a tokenizer that suits it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
    model.eval().save_pretrained(folder)
    if model.config.model_type == "bert":
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        transformers.BertTokenizer.from_pretrained(folder, do_lower_case=False).save_pretrained(folder)
    else:
        chatty(folder, pad, chat)
    return folder


def mistral(pad: int | None = 0, labels: int = 1) -> Any:
    config = transformers.MistralConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, pad_token_id=pad, num_labels=labels,
    )  # fmt: skip
    return transformers.MistralForSequenceClassification(config)


def bert(labels: int = 1) -> Any:
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, num_labels=labels, pad_token_id=0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize("pad", [0, None, 3])
def test_a_decoder_is_read_through_its_chat_template(tmp_path: Path, pad: int | None) -> None:
    """Padded, one by one, and with a pad that is also what ends every turn: as the model reads the row alone."""
    folder = save(tmp_path / "rm", mistral(pad), pad=None if pad is None else WORDS[pad])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    expected = []
    for _, answer in DIALOGS:
        words = ["<user>", *ASKED["content"].split(), "[SEP]", "<answer>", *answer["content"].split(), "[SEP]"]
        with torch.no_grad():
            expected.append(float(model(torch.tensor([[WORDS.index(word) for word in words]])).logits))
    rm = load_reward_model(folder)
    assert rm.score(DIALOGS) == pytest.approx(expected, abs=1e-5)
    scores, sizes = rm.read(DIALOGS, batch_tokens=1)
    assert scores == pytest.approx(expected, abs=1e-5)
    assert sizes == [3, 5, 1, 3]
    assert rm.score([]) == []
    assert rm.context == 24


def test_an_encoder_reads_prompt_and_answer_as_a_pair(tmp_path: Path) -> None:
    folder = save(tmp_path / "rm", bert())
    model = transformers.BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    expected = []
    for _, answer in DIALOGS:
        first = [2, *(WORDS.index(word) for word in ASKED["content"].split()), 3]
        second = [*(WORDS.index(word) for word in answer["content"].split()), 3]
        with torch.no_grad():
            kinds = torch.tensor([[0] * len(first) + [1] * len(second)])
            expected.append(float(model(torch.tensor([first + second]), token_type_ids=kinds).logits))
    rm = load_reward_model(folder, layout="pair")
    assert rm.score(DIALOGS) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(TemplateError, match="dialogue 1: layout pair holds one user message and its answer, found 4"):
        rm.score([DIALOGS[0], DIALOGS[0] * 2])
    with pytest.raises(ArtifactError, match=r"no chat template.*layout pair"):
        load_reward_model(folder)


def test_an_answer_is_read_once(tmp_path: Path) -> None:
    rm: Any = load_reward_model(save(tmp_path / "rm", mistral()))
    rows: list[int] = []
    rm.model.register_forward_pre_hook(lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True)
    scores = rm.score([*DIALOGS, *DIALOGS])
    assert sum(rows) == 3
    assert scores[:4] == scores[4:]


def refusal(folder: Path, layout: Layout | None = None) -> str:
    with pytest.raises(ArtifactError) as told:
        load_reward_model(folder, layout=layout)
    return str(told.value)


def test_what_gives_no_one_score_is_refused(tmp_path: Path) -> None:
    assert "found 2 labels" in refusal(save(tmp_path / "two", mistral(labels=2)))  # a config that names none has two
    three = save(tmp_path / "three", bert(labels=3))
    assert "found 3 labels (LABEL_0, LABEL_1, LABEL_2), expected 1" in refusal(three, "pair")
    llama = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_labels=3
    )
    transformers.LlamaForSequenceClassification(llama).save_pretrained(tmp_path / "llama")
    assert "found 3 labels" in refusal(tmp_path / "llama")
    config = json.loads((tmp_path / "two" / "config.json").read_text()) | {"architectures": ["MistralForCausalLM"]}
    (tmp_path / "two" / "config.json").write_text(json.dumps(config))
    assert "found MistralForCausalLM, expected a reward model" in refusal(tmp_path / "two")


def test_a_head_that_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = save(tmp_path / "rm", mistral()) / "model.safetensors"
    left = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("score")}
    save_file(left, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"score\.weight: missing"):
        load_reward_model(tmp_path / "rm")
    weights.unlink()
    assert "transformers cannot read its model" in refusal(tmp_path / "rm")


def test_a_dialogue_longer_than_the_context_is_told(tmp_path: Path) -> None:
    rm = load_reward_model(save(tmp_path / "rm", mistral()))
    with pytest.raises(DataError, match="dialogue 1: 31 tokens, and the reward model reads 24"):
        rm.score([DIALOGS[0], [ASKED, {"role": "assistant", "content": "noon " * 23}]])


def test_a_template_may_refuse(tmp_path: Path) -> None:
    rm = load_reward_model(save(tmp_path / "rm", mistral(), chat="{{ raise_exception('no system message') }}"))
    with pytest.raises(TemplateError, match="dialogue 0: the model's chat template refuses it: no system message"):
        rm.score(DIALOGS)


def test_where_transformers_is_not_installed_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest)

    folder = save(tmp_path / "rm", mistral())
    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install align[transformers]" in refusal(folder)
