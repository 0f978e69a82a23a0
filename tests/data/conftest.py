"""Tokenizers for the tests of the data layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.data.tokenizer import Tokenizer, train_tokenizer
from tests.data.corpus import corpus


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer trained here, 400 pieces."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(corpus(), 400, path)
    return Tokenizer(path)


@pytest.fixture(scope="session")
def llama(shared_data: Path) -> Tokenizer:
    """The real LLaMA tokenizer."""
    return Tokenizer(shared_data / "llama2_tokenizer" / "tokenizer.model")
