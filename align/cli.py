"""The command line: `align VERB …`. What a verb does is in `commands/`; here is how it is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from align.errors import AlignError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class _Group(typer.core.TyperGroup):
    """Makes of a verb's mistake one line and an exit code; what nobody foresaw keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AlignError as error:
            _complain(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted; the same command resumes", err=True)
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=_Group,
    help="From a LLaMA-2 base model to a chat model, the Llama-2-Chat way.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe's YAML.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values laid over the recipe's.")]
Wandb = Annotated[
    str | None, typer.Option(metavar="PROJECT", help="Log to Weights & Biases too (pip install 'align[wandb]').")
]
Artifact = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact's folder.")]


def main() -> None:
    """The console script."""
    app()


def _say_version(asked: bool) -> None:
    if asked:
        from align import __version__

        typer.echo(f"align {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """What comes before a verb; the version is printed by its own callback."""


@app.command()
def run(recipe: RecipePath, overrides: Overrides = None, wandb: Wandb = None) -> None:
    """Run one stage; goes on where it was stopped."""
    _mirror(wandb)
    from align.runner import load_task

    _perform(load_task(recipe, overrides or []))


@app.command()
def pipeline(recipe: RecipePath, overrides: Overrides = None, wandb: Wandb = None) -> None:
    """Run stages in order into one folder; what is finished and unchanged is skipped, the rest goes on.

    stages.NAME.set.KEY=VALUE reaches into a stage.
    """
    from align.pipeline import load_pipeline
    from align.pipeline import run as run_pipeline
    from align.report.page import write_report
    from align.report.summary import summary

    _mirror(wandb)
    loaded = load_pipeline(recipe, overrides or [])
    run_pipeline(loaded, _say)
    tables = summary(loaded.out)
    if tables:
        _say(f"\n{tables}")
    _say(f"\nreport: {write_report(loaded.out)}")


@app.command()
def tables(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of pipelines.")],
) -> None:
    """Print a run's tables; of several runs, their means and what each step gained."""
    from align.report.across import across
    from align.report.summary import summary

    _say(summary(runs[0]) if len(runs) == 1 else across(runs))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A pipeline's run folder, or an artifact's.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; RUN/report.html where not given, beside a single artifact.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=0, help="At most so many with their answers.")] = 200,
    watts: Annotated[
        float | None, typer.Option(min=0.0, help="Of the whole machine, where no energy was measured.")
    ] = None,
    carbon: Annotated[float | None, typer.Option(min=0.0, help="kg CO2e a kWh of your grid.")] = None,
) -> None:
    """Write one HTML page of a run, finished or not: tables, curves, samples, energy. It needs no network."""
    from align.report.page import write_report

    _say(str(write_report(run, out, watts=watts, carbon=carbon, prompts=prompts)))


@app.command()
def check(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE... [KEY=VALUE]...", help="Recipes, and values laid over each."),
    ],
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Write bad rows to FILE.bad.jsonl and count them.")
    ] = False,
) -> None:
    """Validate recipes, their data, parents and memory; nothing is run and no model is loaded."""
    from align.commands.check import check as look

    paths = [Path(item) for item in recipes if "=" not in item]
    overrides = [item for item in recipes if "=" in item]
    if not paths:
        raise typer.BadParameter("no recipe given")
    mistakes = 0
    for path in paths:
        try:
            for found in look(path, overrides, skip_bad):
                if isinstance(found, AlignError):
                    mistakes += 1
                    _complain(found)
                else:
                    _say(found)
        except AlignError as error:
            mistakes += 1
            _complain(error)
    if mistakes:
        raise typer.Exit(AlignError.exit_code)


@app.command()
def show(
    artifact: Artifact,
    verify: Annotated[bool, typer.Option(help="Read every file and compare its digest.")] = False,
) -> None:
    """Print an artifact's manifest and lineage."""
    from align.commands.show import describe

    for line in describe(artifact, verify):
        _say(line)


@app.command()
def chat(
    artifact: Artifact,
    system: Annotated[str | None, typer.Option(help="A system message for the whole conversation.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.9,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 512,
    seed: int = 0,
    score: Annotated[
        list[Path] | None, typer.Option(metavar="RM", help="A reward model that scores every answer; may be repeated.")
    ] = None,
) -> None:
    """Talk to a policy. The sampling defaults are those of Meta's released chat code."""
    from align.commands.chat import chat as talk
    from align.config import parse
    from align.rollout.backend import SamplingConfig

    sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    talk(artifact, system, parse(SamplingConfig, sampling, "options"), seed, score or [])


@app.command()
def mask(
    source: Annotated[Path, typer.Argument(metavar="RECIPE|DATA", help="An SFT recipe, or a data file.")],
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.model, or the folder it lies in.")] = None,
    train: Annotated[str, typer.Option(help="all or last: which answers count.")] = "all",
    rows: Annotated[int, typer.Option(min=1, help="Of each file.")] = 3,
    color: Annotated[bool | None, typer.Option(help="The terminal decides where not given.")] = None,
) -> None:
    """Print encoded rows coloured by what the loss counts."""
    from align.commands.mask import show_rows
    from align.errors import RecipeError, nearest

    if train not in ("all", "last"):
        raise RecipeError(f"--train: found {train!r}, expected all or last{nearest(train, ('all', 'last'))}")
    show_rows(source, tokenizer, "all" if train == "all" else "last", rows, color)


@app.command()
def score(
    model: Annotated[Path, typer.Argument(metavar="RM", help="A reward model's folder.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dialogues or preferences.")],
    out: Annotated[Path | None, typer.Option(help="Write the rows with their scores here, JSONL.")] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the report here, JSON, with its figures as data; of preferences.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="llama2, chat (the tokenizer's template) or pair: how the model reads a dialogue."),
    ] = None,
    overlong: Annotated[
        str, typer.Option(help="error, cut (the prompt, at a turn) or skip: rows over the model's context.")
    ] = "error",
) -> None:
    """Score a file's answers by a reward model; of preferences, print the report of the model."""
    from align.commands.score import score_file

    _say(score_file(model, data, out, json, layout, overlong))


@app.command()
def attention(
    dialogues: Annotated[Path, typer.Argument(metavar="DATA", help="Dialogues or prompts with a system message.")],
    policies: Annotated[list[Path], typer.Argument(metavar="POLICY...", help="Artifacts, read side by side.")],
    row: Annotated[int, typer.Option(min=1, help="Of the file.")] = 1,
    bin: Annotated[
        int | None, typer.Option(min=1, help="Tokens a column; so many that 128 columns hold all where not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Draw the map here, SVG.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the map as data here, JSON.")] = None,
) -> None:
    """Map how much each token of a dialogue still looks at its system message, by one or more policies."""
    from align.commands.attention import draw_attention

    _say(draw_attention(dialogues, policies, row, bin, out, json))


@app.command()
def world(overrides: Overrides = None) -> None:
    """Write the practice world's data. The first argument may be a recipe, else it is the library's own."""
    recipe, rest = _recipe_first(overrides or [])
    shipped = Path(__file__).parent.parent / "recipes" / "world" / "data.yaml"
    _perform_values(recipe or shipped, rest, "world", Path("runs/world-data"))


@app.command()
def convert(overrides: Overrides = None) -> None:
    """Turn a public data set into the library's JSONL. The first argument may be a recipe."""
    recipe, rest = _recipe_first(overrides or [])
    _perform_values(recipe, rest, "convert", None)


def _recipe_first(arguments: list[str]) -> tuple[Path | None, list[str]]:
    if arguments and "=" not in arguments[0]:
        return Path(arguments[0]), arguments[1:]
    return None, arguments


def _perform_values(recipe: Path | None, overrides: list[str], stage: str, out: Path | None) -> None:
    from align.commands.stage import task_of

    _perform(task_of(recipe, overrides, stage, out))


def _mirror(project: str | None) -> None:
    if project is not None:
        from align.engine.metrics import use_wandb

        use_wandb(project)


def _perform(task: Any) -> None:
    from align.commands.stage import perform_and_tell

    perform_and_tell(task, _say)


def _complain(error: AlignError) -> None:
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)


def _say(line: str) -> None:
    typer.echo(line)


if __name__ == "__main__":
    main()
