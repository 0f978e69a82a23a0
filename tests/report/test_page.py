"""The page as a file: whole, closed in itself, and deaf to whatever the data says."""

from __future__ import annotations

import csv
import io
import json
import re
import urllib.parse
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from align.artifacts import write_json
from align.errors import ArtifactError
from align.report.page import write_report
from tests.report.runs import POLICIES, SECRET, made, training, unfinished, whole
from tests.report.test_summary import judged


class Reader(HTMLParser):
    """Tags with attributes, text, and what scripts and styles hold, as a browser's tokenizer sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        else:
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = whole(tmp_path_factory.mktemp("runs") / "world-7")
    assert write_report(run) == run / "report.html"
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    return Reader(page)


def test_every_section_is_there_in_the_order_that_a_reader_asks(read: Reader) -> None:
    ids = [a["id"] for a in read.of("section")]
    assert ids == ["policies", "wins", "lineage", "instructions", "distributions", "rejection", "rewards", "curves",
                   "samples", "cost", "recipes"]  # fmt: skip
    assert [a["href"] for a in read.of("a") if (a.get("href") or "").startswith("#")][1 : 1 + len(ids)] == [
        f"#{key}" for key in ids
    ]
    for wanted in ("0.750 ± 0.012", "Reward-model accuracy by rating: helpful", "Best and median of N samples",
                   "Whose sample won", "Win rate at equal length: judge",
                   "Instruction kept: trained", "KL, two estimates, PPO", "something: new",
                   "Helpfulness distribution by version", "Phases of an iteration: ppo", "Peak memory by stage",
                   "7 of 7 stages finished", "seed 7"):  # fmt: skip
        assert wanted in read.text, wanted


def test_nothing_is_fetched(page: str, read: Reader) -> None:
    for tag, attributes in read.tags:
        for key in ("src", "srcset", "action", "data", "poster", "background"):
            assert key not in attributes, (tag, attributes)
        href = attributes.get("href")
        assert href is None or href.startswith(("#", "data:")), href
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
    assert "@import" not in page
    assert "url(" not in page
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    policy = next(a["content"] for a in read.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_what_the_data_says_stays_text(page: str, read: Reader) -> None:
    ours = [a for a, _ in read.scripts if "type" not in a]
    assert len(ours) == 2, "our style and our script"
    assert sum(attributes == {} for attributes in read.of("script")) == 1
    assert not [a for _, a in read.tags if any(key.startswith("on") for key in a)]
    assert "document.title='ran'" in read.text, "it is there to be read"
    assert "\ud800" not in page


def test_every_figure_has_marks_a_name_and_its_numbers(read: Reader, page: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) > 25
    for markup in figures:
        figure = Reader(markup)
        assert len(figure.of("svg")) == 1
        assert figure.of("svg")[0]["role"] == "img"
        assert len(figure.of("svg")[0]["aria-label"] or "") > 10
        marks = [a for name, a in figure.tags if name in ("path", "circle", "rect") and a.get("class")]
        assert marks, figure.text
        assert not re.search(r'="[^"]*\b(nan|inf)\b', re.sub(r"data:text.*?\"|aria-label=\".*?\"", "", markup))
        (attributes, embedded), link = figure.scripts[0], figure.of("a")[-1]
        assert attributes["type"] == "application/json"
        data = json.loads(embedded)
        head, _, body = (link["href"] or "").partition(",")
        assert head == "data:text/csv;charset=utf-8"
        rows = list(csv.reader(io.StringIO(urllib.parse.unquote(body))))
        assert rows[0] == list(data["columns"])
        assert len(rows) - 1 == len(data["rows"]) > 0
        for written, kept in zip(rows[1:], data["rows"], strict=True):
            for a, b in zip(written, kept, strict=True):
                assert a == "" if b is None else (a == str(b) or float(a) == pytest.approx(b, rel=1e-4))


def test_ids_are_unique_and_headings_step_by_one(read: Reader) -> None:
    ids = Counter(a["id"] for _, a in read.tags if "id" in a)
    assert [key for key, count in ids.items() if count > 1] == []
    levels = [int(name[1]) for name, _ in read.tags if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    targets = {(a["href"] or "")[1:] for a in read.of("a") if (a.get("href") or "").startswith("#")}
    assert targets <= set(ids)


def test_samples_stand_side_by_side_with_scores_and_kinds(page: str, read: Reader) -> None:
    cards = [a for a in read.of("article") if "card" in (a.get("class") or "")]
    assert len(cards) == 30
    assert {a["data-kind"] for a in cards} == {"skill-0", "skill-1", "skill-2"}
    assert len([a for a in read.of("div") if a.get("class") == "answer"]) == 30 * len(POLICIES)
    first = page.split("<article")[1]
    assert first.count('class="answer"') == 3
    assert "unsafe" in first
    assert 'data-marks="unsafe refused"' in first
    gains = [float(a["data-gain"] or "nan") for a in cards]
    assert gains[1] == pytest.approx(3 / 4 - 1 / 4)


def test_fewer_prompts_are_of_every_kind(tmp_path: Path) -> None:
    out = write_report(whole(tmp_path / "run"), tmp_path / "page.html", prompts=9)
    kinds = [a["data-kind"] for a in Reader(out.read_text()).of("article")]
    assert Counter(kinds) == {"skill-0": 3, "skill-1": 3, "skill-2": 3}
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_secret_never_reaches_it(page: str) -> None:
    assert SECRET not in page
    assert "hf_token: &#x27;***&#x27;" in page or "hf_token: '***'" in page


def test_the_lineage_leaves_out_what_a_longer_way_says(page: str) -> None:
    data = json.loads(re.findall(r'id="figure-lineage".*?<script[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    edges = {(child, parent): kind for child, _, parent, kind in data["rows"]}
    assert edges == {
        ("base", "data"): "data", ("sft", "base"): "weights", ("rm", "sft"): "weights",
        ("reject", "sft"): "weights", ("reject", "rm"): "weights",
        ("ppo", "sft"): "weights", ("ppo", "rm"): "weights", ("exam", "ppo"): "weights",
    }  # fmt: skip


def test_energy_is_reckoned_from_stated_watts_and_says_so(page: str, tmp_path: Path) -> None:
    text = Reader(page).text
    # 7 stages of 36 s at 100 W: 0.07 h, times PUE 1.1
    assert "7.7 Wh" in text
    assert "Not measured: hours × 100 W stated for the whole machine × PUE 1.1; 0.385 kg CO₂e a kWh." in text
    run = whole(tmp_path / "run")
    write_json(run / "work" / "sft" / "usage.json",
               {"seconds": 36.0, "peak_gib": 1.0, "joules": {"RAPL package-0": 3600.0}})  # fmt: skip
    text = Reader(write_report(run, carbon=1.0).read_text()).text
    assert "Measured where it says so (RAPL package-0), else hours × 100 W" in text
    assert "7.7 Wh" in text, "6 stages of 1.1 Wh, one measured: 1 Wh times 1.1"
    assert "7.7 g CO₂e, measured and stated" in text
    quiet = made(tmp_path / "other", "sft", "sft", {"loss": 1.0}, rows=training(5))
    assert "no watts were stated (--watts)" in Reader(write_report(quiet).read_text()).text


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    read = Reader(write_report(unfinished(tmp_path / "run")).read_text())
    assert "1 of 3 stages finished · sft running" in read.text
    assert "Loss, fine-tuning" in read.text
    assert "Not finished." in read.text
    assert "exam: evaluate, waiting" in read.text


def test_a_single_artifact_has_its_page_beside_it(tmp_path: Path) -> None:
    run = whole(tmp_path / "run")
    before = sorted(p.name for p in (run / "ppo").iterdir())
    out = write_report(run / "ppo")
    assert out == run / "ppo.report.html"
    assert sorted(p.name for p in (run / "ppo").iterdir()) == before
    read = Reader(out.read_text())
    assert "Reward, PPO" in read.text
    assert "Loss, fine-tuning" not in read.text
    ids = [a["id"] for a in read.of("section")]
    assert ids == ["lineage", "curves", "cost", "recipes"]


@pytest.mark.parametrize("name", ["data", "base", "rm", "reject", "exam"])
def test_every_stage_s_artifact_has_a_page(tmp_path: Path, name: str) -> None:
    assert name in Reader(write_report(whole(tmp_path / "run") / name).read_text()).text


def test_scores_of_reward_models_stand_with_the_answers_and_are_distributed(tmp_path: Path) -> None:
    rows = [
        {"policy": p, "prompt_id": f"p{i}", "question": "?", "answer": "x",
         "scores": {"helpful": 1.0, "safety": 2.0, "combined": i + k}}
        for k, p in enumerate("AB") for i in range(4)
    ]  # fmt: skip
    only = {key: judged(1)[key] for key in ("kl", "tokens")}
    made(tmp_path / "run", "exam", "evaluate", {"policies": {"A": only, "B": only}}, rows={"answers.jsonl": rows})
    page = write_report(tmp_path / "run").read_text()
    assert "combined 3.00" in Reader(page).text
    assert "Reward distribution by version" in page
    data = json.loads(re.findall(r'id="figure-exam-reward-shift".*?<script[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    assert {row[0]: row[2] for row in data["rows"]} == {"A": 1.5, "B": 2.5}
    assert [a["data-gain"] for a in Reader(page).of("article")] == ["1"] * 4


def test_the_lineage_of_an_artifact_holds_what_its_data_came_from(tmp_path: Path) -> None:
    page = write_report(whole(tmp_path / "run") / "sft").read_text()
    data = json.loads(re.findall(r'id="figure-lineage".*?<script[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    assert {(row[0], row[2]) for row in data["rows"]} == {("base", "data"), ("sft", "base")}


def test_one_prompt_without_standard_errors_and_one_policy(tmp_path: Path) -> None:
    alone = judged(1)
    alone["helpful"]["se"] = alone["kl"]["se"] = alone["tokens"]["se"] = None
    made(tmp_path / "run", "exam", "evaluate", {"policies": {"A": alone}}, rows={"answers.jsonl": []})
    made(tmp_path / "two", "exam", "evaluate", {"policies": {"A": alone, "B": alone}}, rows={"answers.jsonl": []})
    assert "What each step gained" not in write_report(tmp_path / "run").read_text()
    assert "+0.000" in write_report(tmp_path / "two").read_text()


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    with pytest.raises(ArtifactError, match=r"wrld: no such folder \(did you mean 'world'\?\)"):
        write_report(tmp_path / "wrld")
    with pytest.raises(ArtifactError, match="neither a run folder nor an artifact"):
        write_report(tmp_path / "world")
    run = unfinished(tmp_path / "run")
    with pytest.raises(ArtifactError, match="is a folder, expected a file"):
        write_report(run, tmp_path)
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_report(run, run / "pipeline.json" / "page.html")
    (run / "work" / "sft" / "metrics.jsonl").write_text('{"step": 0}\nnot json\n')
    with pytest.raises(ArtifactError, match=r"sft/metrics\.jsonl:2: not JSON"):
        write_report(run)
    (run / "work" / "sft" / "metrics.jsonl").write_text("[1]\n")
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl:1: found list, expected an object"):
        write_report(run)
    (run / "pipeline.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"pipeline\.json: not JSON"):
        write_report(run)
