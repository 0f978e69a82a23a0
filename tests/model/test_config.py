"""Sizes, presets and config.json: the recipe's table, transformers' reading, one line a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from align.config import parse
from align.errors import ArtifactError, RecipeError
from align.model.config import (
    PRESETS,
    LlamaConfig,
    LoraConfig,
    ffn_width,
    from_hf,
    preset,
    read_config,
    to_hf,
)
from align.model.heads import Scorer
from align.model.llama import Llama, on_meta
from tests.model.peers import TINY, tiny

TABLE = [  # arXiv 2307.09288 and Meta's params.json; the counts are those of the released checkpoints
    ("llama2-7b", 4096, 32, 32, 32, 11008, 6_738_415_616),
    ("llama2-13b", 5120, 40, 40, 40, 13824, 13_015_864_320),
    ("llama2-34b", 8192, 48, 64, 8, 22016, 33_743_970_304),
    ("llama2-70b", 8192, 80, 64, 8, 28672, 68_976_648_192),
]


@pytest.mark.parametrize(("name", "dim", "layers", "heads", "kv_heads", "ffn", "count"), TABLE)
def test_presets_equal_the_table(
    name: str, dim: int, layers: int, heads: int, kv_heads: int, ffn: int, count: int
) -> None:
    config = PRESETS[name]
    found = (config.dim, config.n_layers, config.n_heads, config.n_kv_heads, config.ffn_dim)
    assert found == (dim, layers, heads, kv_heads, ffn)
    assert (config.vocab_size, config.max_seq_len, config.norm_eps) == (32000, 4096, 1e-5)
    with on_meta():
        model = Llama(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert config.parameters() == count


def test_closed_form_counts_equal_the_modules() -> None:
    for config in (*PRESETS.values(), tiny(), tiny(4, tie_embeddings=True)):
        with on_meta():
            model, scorer = Llama(config), Scorer(config)
        assert config.parameters() == sum(p.numel() for p in model.parameters())
        assert config.backbone_parameters() + config.dim == sum(p.numel() for p in scorer.parameters())


def test_ffn_width_rounds_up() -> None:
    assert ffn_width(4096, 256) == 11008
    assert ffn_width(8192, 4096, 1.3) == 28672
    assert ffn_width(96, 32) == 256  # 8/3 of 96 is a multiple already


@pytest.mark.parametrize(
    "config", [PRESETS["llama2-70b"], tiny(rope_theta=5e5, norm_eps=1e-4), tiny(tie_embeddings=True)], ids=str
)
def test_config_json_means_the_same_to_transformers(config: LlamaConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(to_hf(config, "LlamaForCausalLM", dtype="bf16")))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.architectures == ["LlamaForCausalLM"]
    assert theirs.rope_parameters["rope_theta"] == config.rope_theta
    assert theirs.rms_norm_eps == config.norm_eps
    assert theirs.num_key_value_heads == config.n_kv_heads
    assert theirs.pad_token_id is None
    assert str(theirs.dtype) == "torch.bfloat16"
    assert read_config(tmp_path) == config
    theirs.save_pretrained(tmp_path)  # transformers 5 writes theta into rope_parameters
    assert "rope_theta" not in json.loads((tmp_path / "config.json").read_text())
    assert read_config(tmp_path) == config


def test_reward_models_config_has_one_label_and_a_pad() -> None:
    values = to_hf(tiny(), "LlamaForSequenceClassification")
    theirs = transformers.LlamaConfig(**values)
    assert theirs.num_labels == 1
    assert theirs.pad_token_id == 0
    assert theirs.architectures == ["LlamaForSequenceClassification"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, "config.json: model_type: expected 'llama', found 'mistral'"),
        ({"hidden_size": None}, "config.json: hidden_size is missing"),
        ({"hidden_act": "gelu"}, "config.json: hidden_act: expected 'silu', found 'gelu'"),
        ({"attention_bias": True}, "config.json: attention_bias: expected False, found True"),
        ({"head_dim": 16}, "config.json: head_dim: expected 8, found 16"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "no scaled rotary embedding, found 'linear'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "no scaled rotary embedding, found 'llama3'"),
        ({"num_key_value_heads": 3}, "config.json: sizes: n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"num_hidden_layers": 0}, "config.json: n_layers: Input should be greater than or equal to 1"),
    ],
)
def test_what_is_no_llama_2_is_refused(change: dict[str, Any], message: str) -> None:
    values = to_hf(tiny(), "LlamaForCausalLM") | change
    with pytest.raises(ArtifactError) as caught:
        from_hf(values, "config.json")
    assert message in str(caught.value)


def test_misspelt_key_is_pointed_at() -> None:
    values = to_hf(tiny(), "LlamaForCausalLM")
    values["hiden_size"] = values.pop("hidden_size")
    with pytest.raises(ArtifactError, match=r"hidden_size is missing \(did you mean 'hiden_size'\?\)"):
        from_hf(values, "config.json")


def test_the_shipped_wrong_epsilon_warns() -> None:
    with pytest.warns(UserWarning, match="1e-6; every Llama 2 size was trained with 1e-5"):
        config = from_hf(to_hf(tiny(norm_eps=1e-6), "LlamaForCausalLM"), "config.json")
    assert config.norm_eps == 1e-6  # the checkpoint's word stands


def test_folders_that_are_not_models(tmp_path: Path) -> None:
    (tmp_path / "sft-1").mkdir()
    with pytest.raises(ArtifactError, match=r"sft1: no such model folder \(did you mean 'sft-1'\?\)"):
        read_config(tmp_path / "sft1")
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        read_config(tmp_path / "sft-1")
    (tmp_path / "sft-1" / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"config\.json: not JSON"):
        read_config(tmp_path / "sft-1")
    with pytest.raises(ArtifactError, match=r"no such model preset \(did you mean 'llama2-7b'\?\)"):
        preset("llama-7b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 3}, "dim 32 is not a multiple of n_heads 3"),
        ({"n_heads": 32, "n_kv_heads": 32}, "dim / n_heads = 1 must be even"),
        ({"dimm": 3}, "dimm: unknown key (did you mean 'dim'?)"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_sizes_of_a_recipe_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(LlamaConfig, TINY | {"n_kv_heads": 2} | change, "recipe.yaml")
    assert message in str(caught.value)


def test_lora_targets_are_checked() -> None:
    assert parse(LoraConfig, {"targets": ["up_proj"], "alpha": 8}, "r.yaml").targets == ("up_proj",)
    with pytest.raises(RecipeError, match="did you mean 'q_proj'"):
        parse(LoraConfig, {"targets": ["q_prj"]}, "r.yaml")
    with pytest.raises(RecipeError, match="at least one linear layer"):
        parse(LoraConfig, {"targets": []}, "r.yaml")


def test_sizes_and_memory_are_known_without_torch() -> None:
    code = "import sys, align.model.config, align.model.memory; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
