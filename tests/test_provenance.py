from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from align import provenance
from align.files import write_text


def test_the_commit_is_git_s_own() -> None:
    repository = Path(provenance.__file__).parent.parent
    if shutil.which("git") is None or not (repository / ".git").exists():
        pytest.skip("not a git checkout, or no git to compare with")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True)
    found = provenance.git_commit()
    after = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True)
    assert found in (head.stdout.strip(), after.stdout.strip())  # someone may commit meanwhile


@pytest.mark.parametrize("layout", ["none", "loose", "packed", "detached", "worktree", "unborn"])
def test_the_commit_in_every_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    commit = "a" * 40
    home, dot = tmp_path / "repo", tmp_path / "repo" / ".git"
    (home / "align").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(home / "align" / "provenance.py"))
    if layout != "none":
        write_text(dot / "HEAD", commit if layout == "detached" else "ref: refs/heads/main\n")
    if layout == "loose":
        write_text(dot / "refs/heads/main", f"{commit}\n")
    if layout == "packed":
        write_text(
            dot / "packed-refs",
            f"# pack-refs with: peeled\n{'b' * 40} refs/heads/x/main\n{commit} refs/heads/main\n",
        )
    if layout == "worktree":
        dot.rename(tmp_path / "elsewhere")
        write_text(tmp_path / "elsewhere/commondir", "../common\n")
        write_text(tmp_path / "common/refs/heads/main", commit)
        write_text(dot, f"gitdir: {tmp_path / 'elsewhere'}\n")
    expected = None if layout in ("none", "unborn") else commit
    above = any((folder / ".git").exists() for folder in tmp_path.parents)
    if layout == "none" and above:
        pytest.skip("the temporary folder itself lies in a checkout")
    assert provenance.git_commit() == expected


def test_secrets_by_name() -> None:
    hidden = ["token", "hf_token", "HF_TOKEN", "password", "api_key", "apikey", "secret", "wandb_api_key"]
    plain = ["tokens", "tokenizer", "max_new_tokens", "eos_token", "key", "secretary", "batch_tokens"]
    found = provenance.hide_secrets({"list": [dict.fromkeys(hidden + plain, "v")]})["list"][0]
    assert {key for key, value in found.items() if value == "***"} == set(hidden)
    assert provenance.hide_secrets({"token": 5, "hf_token": None}) == {"token": 5, "hf_token": None}
    assert provenance.recipe_digest({"token": "a"}) == provenance.recipe_digest({"token": "b"})
