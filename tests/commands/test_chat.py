from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.commands.chat import Chat, printable
from align.data.schema import read_dialogs
from align.errors import AlignError, RecipeError
from align.records import Message
from align.rollout.backend import SamplingConfig
from align.rollout.reward_model import load_reward_model
from tests.commandline import align, here, make_policy, make_reward_model, refused


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("shelf") / "policy")


def test_chat_answers_remembers_and_refuses_tags(policy: Path) -> None:
    said = "Hello?\n\nAgain [INST]\nHow are you?\n/reset\nHello?\n"
    options = ["--temperature", "0", "--max-new-tokens", "4"]
    done = align("chat", policy, "--system", "Be brief.", *options, stdin=said)
    assert done.returncode == 0, done.stderr
    assert "Ctrl-C stops the answer" in done.stdout
    answers = done.stdout.split("> ")[1:]
    assert len(answers) == 7  # five lines, an empty one, and the end
    assert "[INST]" in answers[2]
    assert answers[0] == answers[5]  # the same conversation anew, at temperature 0


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("shelf") / "rm")


@pytest.fixture
def held(policy: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """A conversation whose policy always says the same."""
    found = Chat(policy, "Be brief.", SamplingConfig(temperature=0.0, max_new_tokens=8), seed=3)
    said = found.tokenizer.encode("it is noon")
    monkeypatch.setattr("align.commands.chat.stream", lambda *_, **__: iter(said))
    return found


def test_what_is_saved_is_what_the_schema_reads(held: Chat, judge: Path, tmp_path: Path) -> None:
    shown: list[str] = []
    held.say("What is the time?", shown.append)
    held.score(judge)
    held.say("And now?", shown.append)
    held.reset()
    held.say("Hello?", shown.append)
    held.system("")
    held.say("Good day?", shown.append)
    held.reset()
    path = tmp_path / "new" / "talk.jsonl"
    assert held.save(path) == 3, "the empty one is left out"
    first, second, third = read_dialogs(path)
    assert first.messages == (
        Message("system", "Be brief."), Message("user", "What is the time?"), Message("assistant", "it is noon"),
        Message("user", "And now?"), Message("assistant", "it is noon"),
    )  # fmt: skip
    assert second.messages[0] == Message("system", "Be brief.")
    assert [m.role for m in third.messages] == ["user", "assistant"]
    before, after = json.loads(path.read_text().splitlines()[0])["meta"]["answers"]
    assert "scores" not in before
    assert after["scores"] == {str(judge): load_reward_model(judge).score([first.messages])[0]}
    assert after["policy"] == str(held.folder)
    assert "".join(shown).count("it is noon\n") == 4
    assert "".join(shown).count("[rm ") == 3
    held.say("More?", shown.append)
    assert held.save(path) == 4, "the same file grows with the conversation"


def test_a_file_of_somebody_else_is_left_alone(held: Chat, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nothing has been answered yet"):
        held.save(tmp_path / "a.jsonl")
    held.say("What is the time?", lambda _: None)
    (tmp_path / "precious.jsonl").write_text("{}\n")
    with pytest.raises(RecipeError, match=r"precious\.jsonl: is there already"):
        held.save(tmp_path / "precious.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be written"):
        held.save(tmp_path / "file" / "a.jsonl")
    assert (tmp_path / "precious.jsonl").read_text() == "{}\n"


def test_another_policy_goes_on_with_the_dialogue_and_a_wrong_one_changes_nothing(
    held: Chat, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_policy(tmp_path_factory.mktemp("shelf") / "other")
    held.say("Hello?", lambda _: None)
    before = held.folder
    with pytest.raises(AlignError, match="othr"):
        held.policy(other.with_name("othr"))
    assert held.folder == before
    held.policy(other)
    held.say("Hello?", lambda _: None)
    assert [a["policy"] for a in held.dialogues[-1].answers] == [str(before), str(other)]
    assert len(held.dialogues[-1].messages) == 5


def test_a_refused_message_leaves_the_dialogue_as_it_was(held: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    held.say("Hello?", lambda _: None)
    before = list(held.dialogues[-1].messages)
    with pytest.raises(AlignError, match=r"\[INST\]"):
        held.say("a [INST] b", lambda _: None)
    with pytest.raises(AlignError, match="<<SYS>>"):
        held.system("a <<SYS>> b")
    tagged = held.tokenizer.encode("noon [INST] noon")
    monkeypatch.setattr("align.commands.chat.stream", lambda *_, **__: iter(tagged))
    shown: list[str] = []
    held.say("Hello?", shown.append)
    assert "forgotten" in shown[-1]
    assert held.dialogues[-1].messages == before


def test_no_answer_can_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\x9bc\n\té") == "a[2Jbc\n\té"


def test_commands_at_the_prompt(policy: Path, judge: Path, tmp_path: Path) -> None:
    said = f"/help\n/scroe\n/score {judge}\n/score\n/policy\n/save\n/system Be long.\n/quit\nnever read\n"
    done = here("chat", policy, "--score", judge, stdin=said)
    assert done.returncode == 0, done.stderr
    assert "/policy FOLDER" in done.stdout
    assert "'/score'" in done.stdout
    assert f"scored by {judge}" in done.stdout
    assert "scored by nobody" in done.stdout
    assert f"policy {policy}" in done.stdout
    assert "/save: expected a file" in done.stdout
    assert "under this system message" in done.stdout
    assert done.stdout.count("> ") == 8, "what follows /quit is not read"


def test_chat_s_mistakes(policy: Path, tmp_path: Path) -> None:
    assert "polic" in refused("chat", policy.parent / "polic")
    assert "<<SYS>>" in refused("chat", policy, "--system", "a <<SYS>> b")


def test_a_scorer_that_is_none_is_told_before_the_first_word(policy: Path) -> None:
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=8)
    with pytest.raises(AlignError, match="no-rm"):
        Chat(policy, None, sampling, 0, [policy.parent / "no-rm"])
    with pytest.raises(AlignError, match="policy"):
        Chat(policy, None, sampling, 0, [policy])


def test_the_stream_is_the_plain_sampler(policy: Path) -> None:
    from align.commands.chat import stream
    from align.model.sampler import generate
    from align.model.weights import load_policy
    from align.rollout.backend import SamplingConfig

    model = load_policy(policy).eval()
    prompt = [1, 40, 50, 60, 70]
    for temperature, top_p in ((0.0, 1.0), (1.3, 1.0), (0.8, 0.7)):
        sampling = SamplingConfig(temperature=temperature, top_p=top_p, max_new_tokens=12)
        found = list(stream(model, prompt, 2, sampling, seed=9, turn=0))
        wanted = generate(model, [prompt], max_new_tokens=12, temperature=temperature, top_p=top_p, eos=2, seed=9)[0]
        assert found == [token for token in wanted.tokens if token != 2]
