from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest

from align.config import config, parse, read_values, read_yaml, to_plain
from align.errors import RecipeError


@config
class Inner:
    lr: Annotated[float, pydantic.Field(gt=0)]
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["cosine", "constant"] = "cosine"
    steps: int = 3

    def __post_init__(self) -> None:
        if self.steps == 13:
            raise ValueError("steps must not be 13")


@config
class Source:
    path: str
    take: int | None = None


@config
class Outer:
    stage: Literal["outer"]
    optim: Inner
    data: list[Source] = pydantic.Field(default_factory=list)
    named: dict[str, Source] = pydantic.Field(default_factory=dict)
    maybe: Inner | None = None
    either: int | str = 0
    both: Inner | Source | None = None
    shuffle: bool = True


GOOD: dict[str, Any] = {"stage": "outer", "optim": {"lr": 1}}


def mistake(**changes: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(Outer, {**GOOD, **changes}, "r.yaml")
    return str(caught.value)


def test_values_become_what_the_class_says() -> None:
    values = {
        **GOOD,
        "optim": {"lr": 1, "betas": [0.5, 1]},
        "data": [{"path": "a"}, {"path": "b", "take": 2}],
        "named": {"x.y": {"path": "c"}},
    }
    recipe = parse(Outer, values, "r.yaml")
    assert recipe.optim == Inner(lr=1.0, betas=(0.5, 1.0))
    assert isinstance(recipe.optim.lr, float)
    assert recipe.data[1].take == 2
    assert recipe.named["x.y"].path == "c"
    assert recipe.maybe is None
    assert to_plain(recipe)["optim"] == {"lr": 1.0, "betas": [0.5, 1.0], "schedule": "cosine", "steps": 3}
    assert parse(Outer, to_plain(recipe), "r.yaml") == recipe


def test_a_recipe_is_frozen_and_keyword_only() -> None:
    recipe = parse(Outer, GOOD, "r.yaml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.shuffle = False  # type: ignore[misc]
    with pytest.raises(pydantic.ValidationError):
        Source("a")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optm": {}}, "r.yaml: optm: unknown key (did you mean 'optim'?)"),
        ({"optim": {"lr": 1, "beta": 2}}, "r.yaml: optim.beta: unknown key (did you mean 'betas'?)"),
        ({"maybe": {"lr": 1, "shedule": 2}}, "r.yaml: maybe.shedule: unknown key (did you mean 'schedule'?)"),
        (
            {"data": [{"path": "a"}, {"path": "a", "tke": 1}]},
            "r.yaml: data.1.tke: unknown key (did you mean 'take'?)",
        ),
        (
            {"named": {"z": {"pth": 1, "path": ""}}},
            "r.yaml: named.z.pth: unknown key (did you mean 'path'?)",
        ),
        ({"qqqq": 1}, "r.yaml: qqqq: unknown key"),
        ({"optim": {}}, "r.yaml: optim.lr: missing; it has no default"),
        ({"data": [{}]}, "r.yaml: data.0.path: missing; it has no default"),
        ({"optim": {"lr": 0}}, "r.yaml: optim.lr: expected greater than 0, found 0"),
        ({"optim": {"lr": "fast"}}, "r.yaml: optim.lr: expected a valid number, found 'fast'"),
        ({"optim": {"lr": "1"}}, "r.yaml: optim.lr: expected a valid number, found '1'"),
        ({"optim": {"lr": 1, "steps": True}}, "r.yaml: optim.steps: expected a valid integer, found True"),
        ({"optim": {"lr": 1, "steps": 1.5}}, "r.yaml: optim.steps: expected a valid integer, found 1.5"),
        ({"optim": {"lr": 1, "steps": None}}, "r.yaml: optim.steps: expected a valid integer, found None"),
        ({"shuffle": 1}, "r.yaml: shuffle: expected a valid boolean, found 1"),
        ({"optim": 3}, "r.yaml: optim: expected an object, found 3"),
        ({"data": {"path": "a"}}, "r.yaml: data: expected a valid array, found {'path': 'a'}"),
        ({"optim": {"lr": 1, "steps": 13}}, "r.yaml: optim: steps must not be 13"),
        (
            {"optim": {"lr": 1, "schedule": "cosin"}},
            "r.yaml: optim.schedule: expected 'cosine' or 'constant' (did you mean 'cosine'?), found 'cosin'",
        ),
        (
            {"either": []},
            "r.yaml: either: expected a valid integer, found [] or expected a valid string, found []",
        ),
        ({"stage": "sft"}, "r.yaml: stage: expected 'outer', found 'sft'"),
        ({"optim": {"lr": "???"}}, "r.yaml: optim.lr: must be given (key=value or in the recipe)"),
    ],
)
def test_a_mistake_names_path_found_expected_and_nearest(changes: dict[str, Any], message: str) -> None:
    assert mistake(**changes) == message


def test_a_long_value_is_not_repeated() -> None:
    assert mistake(optim="x" * 200) == "r.yaml: optim: expected an object, found a str"


def test_every_mistake_is_told_at_once() -> None:
    said = mistake(optim={"lr": "???", "beta": 1}, data=[{"path": 3}]).split("; ")
    assert sorted(said) == [
        "r.yaml: data.0.path: expected a valid string, found 3",
        "r.yaml: optim.beta: unknown key (did you mean 'betas'?)",
        "r.yaml: optim.lr: must be given (key=value or in the recipe)",
    ]


def test_a_missing_value_in_a_text_field_is_no_text() -> None:
    assert mistake(data=[{"path": "???"}]) == "r.yaml: data.0.path: must be given (key=value or in the recipe)"


def test_a_union_of_sections_takes_the_one_that_fits() -> None:
    assert parse(Outer, {**GOOD, "both": {"path": "a"}}, "r").both == Source(path="a")
    assert parse(Outer, {**GOOD, "both": {"lr": 2}}, "r").both == Inner(lr=2)
    assert "r.yaml: both.pth: unknown key (did you mean 'path'?)" in mistake(both={"pth": "a"})


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


BASE = """
seed: 1
lr: 1e-5
optim: {lr: 0.1, betas: [0.9, 0.95]}
data:
  - {path: a, take: 1}
  - {path: b}
held: ???
nothing: null
copy: ${seed}
text: "run-${seed}"
"""


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=4", ("copy",), 4),
        ("seed=4", ("text",), "run-4"),
        ("optim.lr=2e-4", ("optim", "lr"), 2e-4),
        ("optim.lr=2e-4", ("optim", "betas"), [0.9, 0.95]),
        ("optim.betas=[1, 2]", ("optim", "betas"), [1, 2]),
        ("data.1.path=c", ("data", 1, "path"), "c"),
        ("data.1.path=c", ("data", 0), {"path": "a", "take": 1}),
        ("data=[{path: z}]", ("data",), [{"path": "z"}]),
        ("held.x=1", ("held",), {"x": 1}),
        ("nothing.x=1", ("nothing",), {"x": 1}),
        ("lr.x=1", ("lr",), {"x": 1}),
        ("new=a=b", ("new",), "a=b"),
        ("new=", ("new",), None),
        ("optim={lr: 3}", ("optim",), {"lr": 3, "betas": [0.9, 0.95]}),
        ("new=${optim.lr}", ("new",), 0.1),
    ],
)
def test_overrides(tmp_path: Path, override: str, path: tuple[Any, ...], value: Any) -> None:
    found: Any = read_yaml(write(tmp_path, BASE), [override])
    for step in path:
        found = found[step]
    assert found == value
    assert type(found) is type(value)


def test_yaml_numbers_are_numbers(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, BASE))["lr"] == 1e-5


def test_later_overrides_win_over_earlier_ones_and_over_settings(tmp_path: Path) -> None:
    settings = {"seed": 5, "optim.lr": 7, "optim": {"eps": 1}, "data": []}
    values = read_yaml(write(tmp_path, BASE), ["seed=6", "seed=8"], settings)
    assert values["seed"] == values["copy"] == 8
    assert values["optim"] == {"lr": 7, "betas": [0.9, 0.95], "eps": 1}
    assert values["data"] == []
    assert settings["optim"] == {"eps": 1}


def test_values_without_a_file() -> None:
    assert read_values(["a.b=1", "c=${a.b}"], "world") == {"a": {"b": 1}, "c": 1}


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("a: {b: [1, 2}", [], "r.yaml:1: not YAML: did not find expected ',' or ']'"),
        ("a: 1\nb: 2\na: 3\n", [], "r.yaml:3: not YAML: found duplicate key a"),
        ("a: 1\n\tb: 2\n", [], "r.yaml:2: not YAML: found a tab character"),
        ("- a\n", [], "r.yaml: expected a mapping of keys to values at the top level, found a list"),
        ("3\n", [], "r.yaml: expected a mapping of keys to values: Invalid loaded object type: int"),
        ("a: !!python/object:os.system x\n", [], "r.yaml:1: not YAML: could not determine a constructor"),
        ("a: ${sed}\nseed: 1\n", [], "r.yaml: a: Interpolation key 'sed' not found (did you mean 'seed'?)"),
        ("a: ${b}\nb: ???\n", [], "r.yaml: b: must be given (key=value or in the recipe)"),
        ("a: ${b\n", [], "r.yaml: not YAML: no viable alternative at input '${b'"),
        ("a: {b: [1]}\n", ["a.b.1=3"], "r.yaml: a.b.1: '1' is not an item of a list of 1, counted from 0"),
        ("a: [{b: 1}]\n", ["a.x.b=3"], "r.yaml: a.x.b: 'x' is not an item of a list of 1, counted from 0"),
        ("a: 1\n", ["seed"], "'seed': expected key=value"),
        ("a: 1\n", ["=3"], "'=3': expected key=value"),
        ("a: 1\n", ["a..b=3"], "'a..b=3': expected key=value"),
        ("a: 1\n", ["a=[1"], "'a=[1': the value is not YAML"),
    ],
)
def test_mistakes_in_the_file_and_the_overrides(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_yaml(write(tmp_path, text), overrides)
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert said.startswith(message)
    assert "\n" not in said


def test_no_such_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "a: 1")
    with pytest.raises(RecipeError, match=r"q\.yaml: no such recipe \(did you mean 'r\.yaml'\?\)"):
        read_yaml(tmp_path / "q.yaml")
    with pytest.raises(RecipeError, match=r"no such recipe$"):
        read_yaml(tmp_path / "nowhere" / "x.yaml")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        read_yaml(tmp_path / "r.yaml")


def test_an_empty_file_is_an_empty_recipe(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, "# nothing\n")) == {}
