"""The report's tables, from reports of preferences made by hand."""

from __future__ import annotations

from align.measures.reward import reward_report
from align.records import Preference
from align.report.reward_model import SOURCES, reward_tables
from tests.measures.cases import many, pair


def titles(text: str) -> list[str]:
    return [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]


def rows(text: str, title: str) -> list[list[str]]:
    """The cells of the table whose title starts so, without its head."""
    lines = text[text.index(f"### {title}") :].split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def tables(pairs: list[Preference], gaps: list[float], tokens: tuple[int, int] = (3, 4)) -> str:
    return reward_tables(reward_report(pairs, [(gap, 0.0) for gap in gaps], [tokens] * len(pairs)))


def test_all_there_is() -> None:
    pairs, scores, tokens = many(120)
    voted = [
        Preference(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, votes=("chosen", "tie")) for p in pairs[:9]
    ]
    text = reward_tables(reward_report([*pairs[9:], *voted], scores, tokens))
    assert [title.split(",")[0].split(":")[0].split(" (")[0] for title in titles(text)] == [
        "Accuracy by rating", "Accuracy by source", "Accuracy by safety labels",
        "Unsafe answers found at probability 0.5", "Scores", "Calibration", "Correlation with length",
        "Length as a judge", "Annotators",
    ]  # fmt: skip


def test_one_source_without_labels_or_annotators_has_only_what_is_known() -> None:
    text = tables([pair("1", rating="better"), pair("2", rating="better"), pair("3")], [1.0, -1.0, 0.0])
    assert rows(text, "Accuracy by rating") == [
        ["better", "2", "50.0 (9.5–90.5)", "0.0 (0.0–65.8)"],
        ["negligibly", "1", "50.0 (5.5–94.5)", "0.0 (0.0–79.3)"],
        ["all", "3", "50.0 (12.5–87.5)", "0.0 (0.0–56.2)"],
    ]
    assert not any(
        title.startswith(("Accuracy by source", "Accuracy by safety", "Annotators")) for title in titles(text)
    )


def test_a_row_that_would_say_the_same_twice_is_left_out() -> None:
    """Each source has one kind: no row over kinds; two sources are helpful: a row of both."""
    pairs = [pair("1", source="a"), pair("2", source="b"), pair("3", source="c", kind="safety")]
    text = tables(pairs, [1.0, 1.0, -1.0])
    assert [row[:3] for row in rows(text, "Accuracy by source")] == [
        ["a", "helpful", "1"], ["b", "helpful", "1"], ["c", "safety", "1"], ["all", "helpful", "2"],
    ]  # fmt: skip


def test_many_sources_are_the_largest() -> None:
    pairs = [pair(f"{i} {j}", source=f"s{i:02}") for i in range(SOURCES + 5) for j in range(1 + i)]
    text = tables(pairs, [1.0] * len(pairs))
    found = rows(text, "Accuracy by source")
    assert len(found) == SOURCES
    assert [row[0] for row in found[:2]] == ["s06", "s07"]
    assert f"the {SOURCES} largest of {SOURCES + 6}" in text


def test_annotators_stand_beside_the_model() -> None:
    pairs = [pair(str(i), votes=("chosen", "chosen", "rejected" if i else "chosen")) for i in range(4)]
    text = tables(pairs, [1.0, 1.0, -1.0, 1.0])
    told = {row[0]: row[1:] for row in rows(text, "Annotators")}
    assert told["two annotators, neither says tie"][1].startswith("50.0 ± 16.7")
    assert told["model and the majority"] == ["4", "75.0 (30.1–95.4)"]
    assert told["annotator 3 and the others' majority"] == ["4", "25.0 (4.6–69.9)"]
