"""The page in a real browser, from the disk, on a phone and on a desk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from align.report.page import write_report
from tests.browser import DESKTOP, PHONE, Browser, Page, browser, chromium
from tests.report.runs import unfinished, whole

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium on PATH and none named by ALIGN_CHROMIUM")

FIGURES = """[...document.querySelectorAll('figure')].map((figure) => {
  const svg = figure.querySelector('svg.chart'), box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('.line,.dashed,.dot,.bar,.ridge,.box')];
  const drawn = marks.filter((mark) => {
    const b = mark.getBoundingClientRect(), style = getComputedStyle(mark);
    const colour = style.stroke === 'none' ? style.fill : style.stroke;
    return b.width + b.height > 0.5 && colour !== 'none' && colour !== 'rgba(0, 0, 0, 0)';
  });
  return {id: figure.id, width: box.width, height: box.height, marks: marks.length, drawn: drawn.length};
})"""
OVERFLOW = """({page: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  out: [...document.querySelectorAll('body *')].filter((e) => {
    const b = e.getBoundingClientRect();
    return b.width > 0 && b.right > innerWidth + 1 && !e.closest('.table, pre, .drawing, nav, svg, .skip');
  }).map((e) => e.tagName + '.' + e.className)})"""


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(whole(tmp_path_factory.mktemp("runs") / "world"))


def quiet(page: Page, file: Path) -> None:
    """No request but for the file itself, no error, and nothing that the data said has run."""
    asked = [url for url in page.requests if not url.startswith("data:")]
    assert asked == [file.resolve().as_uri()]
    assert page.errors == []
    assert "ran" not in page.evaluate("document.title").split()


@pytest.mark.parametrize("size", [PHONE, (320, 640), (820, 1180), DESKTOP], ids=str)
@pytest.mark.parametrize("dark", [False, True])
def test_every_figure_is_drawn_and_nothing_is_asked_for(
    opened: Browser, run: Path, size: tuple[int, int], dark: bool
) -> None:
    page = opened.open(run, size, dark)
    figures = page.evaluate(FIGURES)
    assert len(figures) > 25
    for found in figures:
        assert found["width"] > 200, found
        assert found["height"] > 50, found
        assert found["drawn"] == found["marks"] > 0, found
    overflow = page.evaluate(OVERFLOW)
    assert overflow["page"] <= 0, overflow
    assert overflow["out"] == []
    quiet(page, run)


def test_samples_are_filtered_and_ordered(opened: Browser, run: Path) -> None:
    page = opened.open(run, DESKTOP)
    seen = (
        "[...document.querySelectorAll('.card')].filter((c) => c.offsetParent)"
        ".map((c) => c.querySelector('.id').textContent)"
    )
    put = (
        "((name, value) => {{ const f = document.querySelector('.filters'); f.elements[name].value = value; "
        "f.elements[name].dispatchEvent(new Event('input', {{bubbles: true}})); return {seen}; }})('{name}', '{value}')"
    )

    def filtered(name: str, value: str) -> list[str]:
        found: list[str] = page.evaluate(put.format(seen=seen, name=name, value=value))
        return found

    assert page.evaluate(seen) == [f"p{i}" for i in range(12)]
    page.evaluate("document.querySelector('.more').click()")
    assert len(page.evaluate(seen)) == 30
    assert filtered("kind", "skill-1") == [f"p{i}" for i in range(1, 30, 3)]
    assert filtered("text", "QUESTION 2") == ["p22", "p25", "p28"], "of that kind"
    assert filtered("text", "no such words") == []
    assert page.evaluate("document.querySelector('.count').textContent") == "0 of 30 prompts"
    filtered("text", "")
    filtered("kind", "")
    assert set(filtered("mark", "unsafe")) == {"p0", "p7", "p14", "p21", "p28"}
    filtered("mark", "")
    gains = page.evaluate(
        "(() => {"
        + put.format(seen=seen, name="order", value="gain")
        + "; return [...document.querySelectorAll('.card')].map((c) => +c.dataset.gain) })()"
    )
    assert gains == sorted(gains, reverse=True)
    page.evaluate("document.querySelector('.filters input[type=checkbox]').click()")
    shown = page.evaluate("[...document.querySelectorAll('.card:first-child .answer')].map((a) => !!a.offsetParent)")
    assert shown == [False, True, True]
    quiet(page, run)


def test_the_whole_can_be_reached_by_keyboard_and_a_box_opens_its_recipe(opened: Browser, run: Path) -> None:
    page = opened.open(run, PHONE)
    assert page.evaluate("[...document.querySelectorAll('.table')].every((t) => t.tabIndex === 0)")
    page.evaluate(
        "document.querySelector('svg a[href=\"#recipe-ppo\"]').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert page.evaluate(
        "new Promise((done) => setTimeout(() => done(document.getElementById('recipe-ppo').open), 200))"
    )
    quiet(page, run)


def test_the_numbers_of_a_figure_can_be_saved(opened: Browser, run: Path) -> None:
    page = opened.open(run, PHONE)
    text = page.evaluate(
        "(() => { const a = document.querySelector('#figure-ppo-kl-k1 .data a');"
        " return a.download + '\\n' + decodeURIComponent(a.href.slice(a.href.indexOf(',') + 1)) })()"
    )
    assert text.splitlines()[:3] == ["ppo-kl-k1.csv", "step,k1,k3", "0,0,0"]


def test_print_leaves_out_what_paper_cannot_do(opened: Browser, run: Path) -> None:
    page = opened.open(run, (760, 1000))  # of A4, margins left
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.evaluate(OVERFLOW)["page"] <= 0
    assert page.evaluate("[...document.querySelectorAll('.table')].every((t) => t.scrollWidth <= t.clientWidth)")
    hidden = "['nav', '.filters', '.more'].map((s) => getComputedStyle(document.querySelector(s)).display)"
    assert page.evaluate(hidden) == ["none"] * 3
    assert all(found["width"] > 100 and found["drawn"] for found in page.evaluate(FIGURES))


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=str)
def test_a_run_that_is_not_finished(opened: Browser, tmp_path: Path, size: tuple[int, int]) -> None:
    file = write_report(unfinished(tmp_path / "run"))
    page = opened.open(file, size)
    assert all(found["drawn"] for found in page.evaluate(FIGURES))
    assert page.evaluate(OVERFLOW)["page"] <= 0
    quiet(page, file)
