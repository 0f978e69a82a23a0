"""The real `align` command in a subprocess: exit codes, one line a mistake, nothing heavy where it is not needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align.artifacts import building, publish, write_jsonl, write_text

BIN = Path(sys.executable).parent / "align"


def align(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(BIN), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=120)


def refused(*arguments: str | Path, code: int = 2) -> str:
    """The single line on stderr of a command that must fail."""
    done = align(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ").rstrip("\n")


SFT = """stage: sft
policy: POLICY
data: [{path: DATA}]
batch: {rows: 8, micro_rows: 4, length: 64}
optim: {lr: 1.0e-3, betas: [0.9, 0.95], eps: 1.0e-5, weight_decay: 0.1, clip: 1.0, schedule: cosine}
zero: {stage: 0, dtype: fp32}
"""
TURN = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Good day."}]


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random policy, published as an artifact."""
    from align.data.tokenizer import train_tokenizer
    from align.model.config import LlamaConfig
    from align.model.llama import Llama, init_weights
    from align.model.weights import save_policy

    folder = tmp_path_factory.mktemp("shelf") / "policy"
    sizes = LlamaConfig(vocab_size=320, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=24, max_seq_len=96)
    model = Llama(sizes)
    init_weights(model, 0)
    words = ["hello good day how are you", "I am well", "what is the time", "it is noon"]
    with building(folder) as partial:
        save_policy(model, sizes, partial)
        train_tokenizer(words * 20, 320, partial / "tokenizer.model")
        publish(
            partial, folder, stage="pretrain", name="policy", recipe={"hf_token": "hush", "lr": 0.5}, seed=5,
            metrics={"loss": 1.25},
        )  # fmt: skip
    return folder


@pytest.fixture
def recipe(tmp_path: Path, policy: Path) -> Path:
    data = tmp_path / "sft.jsonl"
    write_jsonl(data, [{"messages": TURN}] * 3)
    path = tmp_path / "sft.yaml"
    path.write_text(SFT.replace("POLICY", str(policy)).replace("DATA", str(data)))
    return path


def test_help_lists_the_verbs_quickly() -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = align("--help")
        times.append(time.perf_counter() - began)
    assert done.returncode == 0
    for verb in ("run", "pipeline", "check", "show", "chat", "world", "convert", "mask"):
        assert f"\n  {verb} " in done.stdout
    assert min(times) < 0.5


def test_nothing_heavy_is_imported_by_a_check(recipe: Path) -> None:
    code = (
        "import sys; sys.argv = ['align', 'check', sys.argv[1]]\n"
        "from align.cli import app\n"
        "app(standalone_mode=False)\n"
        "heavy = ('torch', 'deepspeed', 'ray', 'transformers', 'datasets', 'trl', 'peft', 'sentencepiece')\n"
        "assert not [name for name in heavy if name in sys.modules], [n for n in heavy if n in sys.modules]"
    )
    done = subprocess.run([sys.executable, "-c", code, str(recipe)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_check_tells_rows_parents_and_memory_within_two_seconds(recipe: Path, policy: Path) -> None:
    times = []
    for _ in range(2):
        began = time.perf_counter()
        done = align("check", recipe, "batch.rows=16")
        times.append(time.perf_counter() - began)
    assert min(times) < 2
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{recipe}: sft: the recipe is good"
    assert lines[1].startswith(f"  policy: {policy}: artifact of pretrain, ")
    assert lines[2] == f"  data.0.path: {recipe.parent / 'sft.jsonl'}: 3 rows"
    assert lines[3].startswith("  memory of each process: 0.00 GiB (training 0.00)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["polcy=x"], "polcy: unknown key (did you mean 'policy'?)"),
        (["optim.lrr=1"], "optim.lrr: unknown key (did you mean 'lr'?)"),
        (["optim.lr=fast"], "optim.lr: expected a valid number, found 'fast'"),
        (["optim.lr=-1"], "optim.lr: expected greater than or equal to 0, found -1"),
        (["zero.stage=4"], "zero.stage: expected 0, 1, 2 or 3, found 4"),
        (["zero.offload_params=true"], "zero: offload_params needs stage 3"),
        (["overlong=cutt"], "expected 'error', 'cut' or 'skip' (did you mean 'cut'?), found 'cutt'"),
        (["stage=stf"], "stage: no stage 'stf' (did you mean 'sft'?)"),
        (["seed"], "'seed': expected key=value"),
        (["seed=[1"], "'seed=[1': the value is not YAML"),
        (["policy=???"], "policy: must be given (key=value or in the recipe)"),
    ],
)
def test_mistakes_in_a_recipe_are_one_line_and_exit_code_2(recipe: Path, arguments: list[str], message: str) -> None:
    assert message in refused("run", recipe, f"out={recipe.parent}/out", *arguments)
    assert not (recipe.parent / "out").exists()


def test_a_recipe_that_is_not_there(recipe: Path) -> None:
    assert "no such recipe (did you mean 'sft.yaml'?)" in refused("run", recipe.with_name("sfft.yaml"))
    assert "no such recipe" in refused("check", "nowhere.yaml")
    assert "this is the recipe of one stage: `align run" in refused("pipeline", recipe)
    assert "out: must be given" in refused("run", recipe)


def test_missing_data_and_parents_are_named(recipe: Path, policy: Path) -> None:
    parent = recipe.parent
    said = refused("check", recipe, f"data.0.path={parent}/stf.jsonl")
    assert f"data.0.path: {parent}/stf.jsonl: no such file (did you mean 'sft.jsonl'?)" in said
    assert "no such model folder (did you mean 'policy'?)" in refused("check", recipe, f"policy={policy.parent}/polic")
    (parent / "empty").mkdir()
    assert "no config.json" in refused("check", recipe, f"policy={parent}/empty")


def test_run_names_a_bad_row_and_leaves_no_artifact(recipe: Path) -> None:
    (recipe.parent / "sft.jsonl").write_text("{\n")
    assert "sft.jsonl:1: not JSON" in refused("run", recipe, f"out={recipe.parent}/out")
    assert not (recipe.parent / "out").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"messages": 3}', "sft.jsonl:2: messages: "),
        ('{"messages": [{"role": "usr", "content": "a"}]}', "sft.jsonl:2: messages.0.role: "),
        ("{", "sft.jsonl:2: not JSON"),
    ],
)
def test_a_bad_row_is_named(recipe: Path, row: str, message: str) -> None:
    data = recipe.parent / "sft.jsonl"
    data.write_text(json.dumps({"messages": TURN}) + "\n" + row + "\n")
    assert message in refused("check", recipe)


def test_bad_rows_can_be_counted_and_set_aside(recipe: Path) -> None:
    data = recipe.parent / "sft.jsonl"
    data.write_text("{\n" + json.dumps({"messages": TURN}) + "\n[]\n")
    done = align("check", recipe, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert f"sft.jsonl: 1 rows, 2 bad ones set aside in {data}.bad.jsonl" in done.stdout
    aside = [json.loads(line) for line in Path(f"{data}.bad.jsonl").read_text().splitlines()]
    assert [row["line"] for row in aside] == [1, 3]


def test_a_tag_in_a_prompt_is_refused(recipe: Path) -> None:
    turns = [{"role": "user", "content": "Hi [/INST] there"}, TURN[1]]
    write_jsonl(recipe.parent / "sft.jsonl", [{"messages": turns}])
    assert "[/INST]" in refused("check", recipe)


def test_check_goes_on_to_the_next_recipe_and_tells_every_mistake(recipe: Path) -> None:
    bad = recipe.with_name("bad.yaml")
    bad.write_text("stage: sft\nsed: 3\n")
    done = align("check", bad, recipe)
    assert done.returncode == 2
    assert "the recipe is good" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "sed: unknown key (did you mean 'seed'?)" in done.stderr
    assert "policy: missing" in done.stderr


def test_a_mistyped_verb_or_option() -> None:
    done = align("chekc")
    assert done.returncode == 2
    assert "No such command 'chekc'" in done.stderr
    assert "check" in done.stderr
    assert align("check").returncode == 2
    assert align("check", "seed=3").returncode == 2


def test_show_prints_manifest_and_lineage(policy: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    for _ in range(2):
        with building(child) as folder:
            write_text(folder / "a.txt", "x")
            publish(folder, child, stage="sft", name="child", recipe={}, seed=0, parents=[policy])
    done = align("show", child, "--verify")
    assert done.returncode == 0
    assert "made by the stage sft" in done.stdout
    assert "every digest verified" in done.stdout
    assert "lineage\n  child  sft\n    policy  pretrain\n" in done.stdout
    base = align("show", policy)
    assert "hf_token: '***'" in base.stdout
    assert "hush" not in base.stdout
    assert "loss: 1.25" in base.stdout
    assert "seed     5" in base.stdout


def test_show_explains_a_wrong_folder(policy: Path, tmp_path: Path) -> None:
    assert "no such artifact folder (did you mean 'policy'?)" in refused("show", policy.parent / "polcy")
    assert "it has no manifest.json" in refused("show", tmp_path)


def test_show_tells_a_parent_that_was_made_anew(tmp_path: Path) -> None:
    def make(name: str, text: str, **kwargs: object) -> None:
        out = tmp_path / name
        with building(out) as folder:
            write_text(folder / "a.txt", text)
            publish(folder, out, stage="sft", name=name, recipe={}, seed=0, **kwargs)  # type: ignore[arg-type]

    make("base", "1")
    make("child", "1", parents=[tmp_path / "base"])
    assert "made anew" not in align("show", tmp_path / "child").stdout
    make("base", "2")
    assert "child  sft  (made anew since: base)" in align("show", tmp_path / "child").stdout


def test_mask_prints_what_counts(recipe: Path, policy: Path) -> None:
    plain = align("mask", recipe.parent / "sft.jsonl", "--tokenizer", policy, "--rows", "1")
    assert plain.returncode == 0, plain.stderr
    head, *body = plain.stdout.splitlines()
    assert head.startswith(f"{recipe.parent / 'sft.jsonl'}:1: ")
    assert head.endswith("count")
    assert "\x1b[" not in plain.stdout
    coloured = align("mask", recipe, "--rows", "1", "--color")
    assert "\x1b[1;32m" in coloured.stdout  # counted tokens
    assert "\x1b[90m" in coloured.stdout  # the prompt
    assert body
    assert "--train: found 'lst', expected all or last" in refused(
        "mask", recipe.parent / "sft.jsonl", "--tokenizer", policy, "--train", "lst"
    )
    assert "--tokenizer: must be given" in refused("mask", recipe.parent / "sft.jsonl")


def test_mask_of_preferences_and_prompts(tmp_path: Path, policy: Path) -> None:
    pairs, prompts = tmp_path / "pairs.jsonl", tmp_path / "prompts.jsonl"
    other = [{"role": "assistant", "content": "No."}]
    write_jsonl(
        pairs, [{"prompt": TURN[:1], "chosen": TURN[1:], "rejected": other, "rating": "better", "kind": "helpful"}]
    )  # fmt: skip
    write_jsonl(prompts, [{"id": "1", "prompt": TURN[:1], "kind": "helpful"}])
    shown = align("mask", pairs, "--tokenizer", policy)
    assert f"{pairs}:1 chosen: " in shown.stdout, shown.stderr
    assert f"{pairs}:1 rejected: " in shown.stdout
    assert "tokens, 0 count" in align("mask", prompts, "--tokenizer", policy).stdout


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


def test_chat_s_mistakes(policy: Path, tmp_path: Path) -> None:
    assert "polic" in refused("chat", policy.parent / "polic")
    assert "<<SYS>>" in refused("chat", policy, "--system", "a <<SYS>> b")


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


def test_ctrl_c_stops_the_answer_and_not_the_conversation(policy: Path) -> None:
    """Through a pseudo-terminal, whose Ctrl-C is a signal to the program."""
    pty = pytest.importorskip("pty")
    controller, terminal = pty.openpty()
    # 96 tokens of context hold no long answer, so the answer is slowed down instead
    code = (
        "import sys, time; import align.commands.chat as chat\n"
        "def slow(*_, **__):\n"
        "    for token in [300, 301] * 500:\n"
        "        yield token; time.sleep(0.05)\n"
        "chat.stream = slow\n"
        "sys.argv = ['align', 'chat', sys.argv[1]]\n"
        "from align.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(policy)],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, close_fds=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        _until(controller, b"\n> ")
        os.write(controller, b"Hello?\n")
        _until(controller, b"Hello?\r\n")
        _until(controller, b"")
        process.send_signal(signal.SIGINT)
        _until(controller, " …\r\n> ".encode())
        process.send_signal(signal.SIGINT)  # at the prompt it does nothing but start a new line
        _until(controller, b"\n> ")
        os.write(controller, b"\x04")  # Ctrl-D
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def _until(controller: int, wanted: bytes) -> None:
    """Read byte by byte up to what is wanted, or, where nothing is named, until anything is said."""
    import select

    seen, end = b"", time.monotonic() + 60
    while not (seen.endswith(wanted) if wanted else seen):
        assert time.monotonic() < end, seen
        if select.select([controller], [], [], 0.2)[0]:
            seen += os.read(controller, 1)


def test_world_and_convert_take_values_or_a_recipe(tmp_path: Path) -> None:
    assert "peple: unknown key (did you mean 'people'?)" in refused("world", f"out={tmp_path}/w", "peple=3")
    assert "stage: found 'sft', expected 'world'" in refused("world", "stage=sft")
    assert "jobs: missing" in refused("convert", f"out={tmp_path}/c")
    rows = [{"instruction": f"Say {n}.", "context": "", "response": f"{n}", "category": "x"} for n in range(20)]
    write_jsonl(tmp_path / "dolly.jsonl", rows)
    job = f"jobs=[{{format: dolly, path: {tmp_path}/dolly.jsonl, to: dialogues, out: sft}}]"
    done = align("convert", job, f"out={tmp_path}/c")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c/sft.jsonl").is_file()
    assert f"{tmp_path}/c: " in done.stdout
    assert "finished and unchanged, skipped" in align("convert", job, f"out={tmp_path}/c").stdout


def test_an_unforeseen_error_keeps_its_traceback() -> None:
    code = (
        "import align.commands.show as show, sys\n"
        "def broken(*_): raise ZeroDivisionError('ours')\n"
        "show.describe = broken\n"
        "sys.argv = ['align', 'show', '.']\n"
        "from align.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: ours" in done.stderr
