"""Choosing among answers: who may win, who ranks where, and what is told of a winner."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from align.data.explain import explain
from align.rollout.best import as_dialog, choose, pooled, ranked
from tests.rollout.rows import SHA, row


def test_unfinished_and_empty_answers_never_win() -> None:
    rows = [
        row("p", 9.0, finish="length"),
        row("p", 8.0, answer=""),
        row("p", 7.0, answer="[INST] mine"),
        row("p", -3.0, answer="poor"),
        row("q", 1.0, finish="length"),
        row("q", 2.0, answer=""),
        row("r", 0.0),
    ]
    best, unanswered = choose(rows)
    assert [(b["prompt_id"], b["scores"]["combined"]) for b in best] == [("p", -3.0), ("r", 0.0)]
    assert unanswered == 1


def test_ties_keep_the_first_and_policies_compete_for_each_prompt() -> None:
    rows = [row("p", 1.0, policy="v1"), row("q", 0.5, policy="v1"), row("p", 1.0, policy="v2")]
    best, unanswered = choose([*rows, row("q", 0.75, policy="v2"), row("p", 0.9, policy="v3")])
    assert [(b["prompt_id"], b["policy"]) for b in best] == [("p", "v1"), ("q", "v2")]
    assert unanswered == 0
    assert choose([]) == ([], 0)


DRAWN = st.lists(
    st.tuples(st.sampled_from("pqr"), st.integers(-2, 2), st.sampled_from(["", "a", "b"]), st.booleans()), max_size=12
)


@given(DRAWN)
def test_choose_is_a_stable_sort_of_the_usable(drawn: list[tuple[str, int, str, bool]]) -> None:
    rows = [row(prompt, score, answer, "stop" if done else "length") for prompt, score, answer, done in drawn]
    best, unanswered = choose(rows)
    chosen = {b["prompt_id"]: b for b in best}
    assert len(chosen) == len(best)
    for prompt in "pqr":
        usable = [r for r in rows if r["prompt_id"] == prompt and r["answer"] and r["finish"] == "stop"]
        ordered = sorted(usable, key=lambda r: -r["scores"]["combined"])
        assert (chosen.get(prompt) is ordered[0]) if ordered else prompt not in chosen
    assert unanswered == len({r["prompt_id"] for r in rows}) - len(best)


@given(DRAWN)
def test_a_rank_counts_the_better_ones_and_the_equal_ones_before(drawn: list[tuple[str, int, str, bool]]) -> None:
    rows = [row(prompt, score, answer) for prompt, score, answer, _ in drawn]
    found = ranked(rows)
    assert [{k: v for k, v in r.items() if k != "rank"} for r in found] == rows
    for place, one in enumerate(rows):
        mine = one["scores"]["combined"]
        others = [(i, r["scores"]["combined"]) for i, r in enumerate(rows) if r["prompt_id"] == one["prompt_id"]]
        assert found[place]["rank"] == 1 + sum(s > mine or (s == mine and i < place) for i, s in others)
    assert pooled(rows) == {p: sum(r["prompt_id"] == p for r in rows) for p in {r["prompt_id"] for r in rows}}


def test_a_winner_s_dialogue_says_where_it_came_from() -> None:
    """The best usable answer stands third among all: two better ones were cut short."""
    rows = [row("p", 1.0, policy="v1"), row("p", 3.0, finish="length"), row("p", 2.0, finish="length", policy="v2")]
    best, _ = choose(ranked([one | {"source": "world/copy"} for one in rows]))
    dialog = as_dialog(best[0], 3)
    assert dialog == {
        "messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "yes"}],
        "source": "world/copy",
        "meta": {
            "score": 1.0, "prompt_id": "p", "policy": "v1", "policy_sha256": SHA["v1"], "sample": 0,
            "temperature": 0.9, "scores": {"helpful": 0.0, "safety": 0.0, "combined": 1.0}, "rank": 3, "of": 3,
        },
    }  # fmt: skip
    assert explain("dialogue", dialog) is None
