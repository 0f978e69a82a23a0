"""Training, encoding and decoding with sentencepiece."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.tokenizer import Tokenizer, train_tokenizer
from align.errors import ArtifactError, DataError
from tests.data.corpus import corpus


def test_real_ids(llama: Tokenizer) -> None:
    # the recipe page's, section 2
    assert llama.encode("[INST]") == [518, 25580, 29962]
    assert llama.encode("x [/INST]")[1:] == [518, 29914, 25580, 29962]
    assert llama.encode("a\nb")[1] == 13
    assert (llama.vocab_size, llama.bos, llama.eos) == (32000, 1, 2)
    assert 1 not in llama.encode("<s>"), "<s> in text is ordinary text"
    assert 2 not in llama.encode("</s>")
    assert llama.encode("2024") == [29871, 29906, 29900, 29906, 29946], "digits are split"


def test_stories_tokenizer_loads(shared_data: Path) -> None:
    tokenizer = Tokenizer(shared_data / "llama_stories260K" / "tok512.model")
    assert tokenizer.vocab_size == 512
    assert tokenizer.decode(tokenizer.encode("Once upon a time")) == "Once upon a time"


def test_trained_has_llamas_settings(small: Tokenizer) -> None:
    pieces = small.pieces(range(300))
    assert pieces[:3] == ["<unk>", "<s>", "</s>"]
    assert pieces[3:259] == [f"<0x{byte:02X}>" for byte in range(256)], "byte fallback"
    assert small.vocab_size == 400
    assert small.encode("\n")[-1] == 3 + 10, "a newline is its byte, as in LLaMA's"
    assert all(len(piece) == 1 for piece in small.pieces(small.encode("1815"))[1:]), "digits are split"
    assert not {small.bos, small.eos} & set(small.encode("<s></s>"))
    assert small.encode("a  b") != small.encode("a b"), "extra whitespace is kept"


def test_settings_equal_the_real_models(llama: Tokenizer, small: Tokenizer) -> None:
    # read from the models themselves, so that a setting forgotten here is seen
    from sentencepiece import sentencepiece_model_pb2

    def spec(path: Path) -> tuple[dict[str, object], dict[str, object]]:
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(path.read_bytes())
        names = (
            "model_type", "character_coverage", "split_digits", "byte_fallback", "split_by_whitespace",
            "split_by_unicode_script", "split_by_number", "treat_whitespace_as_suffix", "allow_whitespace_only_pieces",
            "max_sentencepiece_length", "unk_id", "bos_id", "eos_id", "pad_id", "unk_surface", "bos_piece", "eos_piece",
            "unk_piece", "pad_piece",
        )  # fmt: skip
        normal = ("name", "precompiled_charsmap", "add_dummy_prefix", "remove_extra_whitespaces")
        return (
            {name: getattr(model.trainer_spec, name) for name in names},
            {name: getattr(model.normalizer_spec, name) for name in normal},
        )

    assert spec(small.path) == spec(llama.path)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0▁")))
def test_round_trip(small: Tokenizer, text: str) -> None:
    # the dummy prefix is taken off again, so what comes back is the text; bytes carry any character
    assert small.decode(small.encode(text)) == text


def test_many_equals_one_by_one(small: Tokenizer) -> None:
    texts = [*corpus(), *corpus(), "", "é ☃"]
    assert small.encode_many(texts) == {text: small.encode(text) for text in texts}


def test_training_is_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_tokenizer(iter(corpus()), 350, tmp_path / name / "tokenizer.model")
    first, second = ((tmp_path / name / "tokenizer.model").read_bytes() for name in ("a", "b"))
    assert first == second
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["tokenizer.model"], "nothing left beside it"


def test_a_long_line_is_learned_from(tmp_path: Path) -> None:
    # sentencepiece leaves lines over 4192 bytes out silently by default
    train_tokenizer(["zebra " * 3000 + "quagga " * 3000], 279, tmp_path / "m")
    assert len(Tokenizer(tmp_path / "m").encode("zebra quagga")) == 2


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (["a b c"], 5000, "lower vocab_size"),
        (["a b c"], 100, "raise vocab_size"),
        ([], 300, "no text"),
        (["  \n "], 300, "no text"),
    ],
)
def test_untrainable(tmp_path: Path, texts: list[str], size: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        train_tokenizer(texts, size, tmp_path / "tokenizer.model")
    assert not list(tmp_path.iterdir())


def test_missing_and_broken(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such tokenizer"):
        Tokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="not a sentencepiece model"):
        Tokenizer(tmp_path / "tokenizer.model")


def test_id_outside_the_vocabulary(small: Tokenizer) -> None:
    # a model whose vocabulary is padded may sample such an id
    with pytest.raises(DataError, match="token 400: outside the vocabulary of 400"):
        small.decode([5, 400])
    assert small.decode([]) == ""
