from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from unitx.config import SIZES
from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.recipe import (
    CHOICES,
    ModelRecipe,
    Recipe,
    TaskRecipe,
    backbone_config,
    check,
    from_dict,
    in_memory,
    load_recipe,
    save_recipe,
    shipped,
    to_dict,
    update,
)

NAMES = ["align", "audio-classify", "digits", "image-classify", "language-model", "python-source", "senses"]
NAMES += ["text-classify"]
ONE = Recipe(tasks={"kind": TaskRecipe(reads="photo:image", label="kind", options={"multi_label": True})}, steps=3)


@pytest.mark.parametrize("name", shipped())
def test_every_recipe_that_ships_is_sound(name: str) -> None:
    recipe = load_recipe(name)
    check(recipe)
    assert recipe.about == shipped()[name] and "\n" not in recipe.about and recipe.about
    config, size = backbone_config(recipe), SIZES[recipe.size]
    assert (config.dim, config.depth, config.heads) == (size.dim, size.depth, size.heads)
    assert from_dict(Recipe, to_dict(recipe), name) == recipe
    from unitx.registry import TASKS, TOKENIZERS

    for task in recipe.tasks.values():
        known = {field.name for field in dataclasses.fields(TASKS.get(task.kind).Options)}
        assert set(task.options) <= known
    for modality, options in recipe.tokenizers.items():
        known = {field.name for field in dataclasses.fields(TOKENIZERS.get(modality).Processor)}
        assert set(options) <= known | {"vocabulary_size"}


def test_the_recipes_of_the_readme_are_there() -> None:
    assert set(NAMES) <= set(shipped())


def test_update_sets_fields_and_leaves_the_old_recipe_alone() -> None:
    before = to_dict(ONE)
    given = {
        "model.depth": 6,
        "tasks.kind.weight": 2,
        "tokenizers.image.patch": 8,
        "lr": 1e-3,
        "tasks.new.kind": "align",
    }
    found = update(ONE, **given)
    assert found.model == ModelRecipe(depth=6) and found.lr == 1e-3
    assert found.tasks["kind"] == TaskRecipe(
        reads="photo:image", label="kind", options={"multi_label": True}, weight=2.0
    )
    assert found.tasks["new"] == TaskRecipe(kind="align") and found.tokenizers == {"image": {"patch": 8}}
    assert to_dict(ONE) == before
    assert update(ONE, tasks={"a": TaskRecipe(kind="align")}).tasks == {"a": TaskRecipe(kind="align")}
    assert update(ONE, model=ModelRecipe(dim=64)).model.dim == 64


def test_the_length_that_is_given_replaces_the_recipes() -> None:
    found = update(ONE, minutes=2)
    assert (found.steps, found.epochs, found.minutes) == (None, None, 2)
    assert update(ONE, lr=0.1).steps == 3 and update(ONE, minutes=None).steps == 3
    with pytest.raises(UnitxError, match="give one length, not steps and minutes"):
        check(update(ONE, steps=3, minutes=2))


def test_values_are_brought_to_the_kind_of_their_field() -> None:
    found = update(ONE, lr="1e-3", steps=1e3, seed=np.int64(7), epochs=None, out=Path("runs") / "x", clip=2)
    assert (found.lr, found.steps, found.seed, found.out, found.clip) == (1e-3, 1000, 7, str(Path("runs/x")), 2.0)
    assert [type(v) for v in (found.lr, found.steps, found.seed, found.clip)] == [float, int, int, float]
    assert update(ONE, reads={"photo": "image"}).reads == {"photo": "image"}


def test_data_in_memory_stay_the_objects_that_they_are() -> None:
    frame = pd.DataFrame({"text": ["a"], "label": ["b"]})
    source = open_source([{"text": "a", "label": "b"}], {"text": "text"})  # a dataclass itself
    for data in (frame, source):
        assert update(ONE, data=data).data is data
        assert update(ONE, **{"tasks.kind.data": data}).tasks["kind"].data is data


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"steps": "many"}, "steps is 'many'; it must be a whole number"),
    ({"steps": 2.5}, "steps is 2.5; it must be a whole number"),
    ({"steps": True}, "steps is True"),
    ({"steps": 0}, "steps is 0; it must be more than 0"),
    ({"steps": None, "minutes": float("nan")}, "minutes is nan"),
    ({"steps": float("inf")}, "steps is inf"),
    ({"lr": "fast"}, "lr is 'fast'; it must be a number"),
    ({"lr": -1}, "lr is -1.0; it must be more than 0"),
    ({"size": "huge"}, "size is 'huge'; it can be nano, tiny, small, base, large"),
    ({"size": 3}, "size is 3; it must be text"),
    ({"size": None}, "size is None"),
    ({"optimizer": "sgd"}, "optimizer is 'sgd'; it can be muon, adamw"),
    ({"class_weights": "balanced"}, "it can be none, auto"),
    ({"tasks": ["kind"]}, "tasks is .*; it must be fields"),
    ({"tasks": {}}, "has no task"),
    ({"tasks": {"kind": "classify"}}, "tasks.kind: expected fields, found 'classify'"),
    ({"tasks": {"kind": {"weight": "much"}}}, "tasks.kind: weight is 'much'; it must be a number"),
    ({"tasks": {"kind": {"wieght": 1}}}, "tasks.kind: unknown field 'wieght'; did you mean 'weight'?"),
    ({"tasks": {"a/b": {}}}, "cannot be called 'a/b'"),
    ({"tasks.kind.weight": 0}, "tasks.kind.weight is 0"),
    ({"tasks.kinds.weight": 2}, "the recipe has no task 'kinds'; it has: kind"),
    ({"tokenizers": {"image": 8}}, "tokenizers.image is 8; it must be fields"),
    ({"tokenizers.image": 8}, "tokenizers.image is 8; it must be fields"),
    ({"model": "big"}, "model: expected fields, found 'big'"),
    ({"model.deph": 3}, "model: unknown field 'deph'; did you mean 'depth'?"),
    ({"model.depth": "deep"}, "model: depth is 'deep'; it must be a whole number"),
    ({"steps.more": 3}, "'steps' is 3 and has no fields"),
    ({"stesp": 3}, "unknown field 'stesp'; did you mean 'steps'?"),
    ({"xyzzy": 3}, "unknown field 'xyzzy'; there are: about, tasks, data"),
    ({"plugins": "my.py"}, "plugins is 'my.py'; it must be a list"),
    ({"holdout": 1.5}, "holdout is 1.5; it must be from 0 to below 1"),
    ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
    ({"warmup": 1}, "warmup is 1.0"),
    ({"workers": -1}, "workers"),
    ({"evaluations": 0}, "evaluations is 0"),
    ({"checkpoint_every": 0}, "checkpoint_every is 0"),
]


@pytest.mark.parametrize("given, says", WRONG, ids=[str(given) for given, _ in WRONG])
def test_wrong_values_are_named_before_anything_is_opened(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UnitxError, match=says.replace("?", r"\?")) as error:
        check(update(ONE, **given))
    assert "\n" not in str(error.value)


def test_every_choice_is_accepted() -> None:
    for name, allowed in CHOICES.items():
        for value in allowed:
            check(update(ONE, **{name: value}))


def test_a_backbone_that_does_not_fit_together_is_named() -> None:
    with pytest.raises(UnitxError, match="model: dim 30 must be a multiple of heads 4"):
        backbone_config(update(ONE, **{"model.dim": 30}))
    config = backbone_config(update(ONE, **{"model.dim": 64, "model.kv_heads": 2, "model.window": 9}))
    assert (config.dim, config.depth, config.heads, config.kv_heads, config.window) == (64, 4, 4, 2, 9)


def test_a_saved_recipe_repeats_what_was_given(tmp_path: Path) -> None:
    given = update(ONE, **{"model.dim": 64, "lr": 2e-3, "tokenizers.image.patch": 8, "data": {"world": "emoji"},
                           "freeze": "text", "plugins": ["a.py"], "about": "größer"})  # fmt: skip
    save_recipe(tmp_path / "recipe.yaml", given, {"lr": 2e-3, "backbone": {"dim": 64}, "rows": (1, 2)})
    tree = yaml.safe_load((tmp_path / "recipe.yaml").read_text("utf-8"))
    assert set(tree) == {"format", "given", "resolved"} and tree["resolved"]["rows"] == [1, 2]
    assert "size" not in tree["given"]  # only what differs from the defaults
    assert load_recipe(tmp_path / "recipe.yaml") == load_recipe(tmp_path) == load_recipe(str(tmp_path)) == given
    save_recipe(tmp_path / "recipe.yaml", Recipe(), {})
    assert load_recipe(tmp_path) == Recipe()


def test_a_recipe_with_data_in_memory_can_be_written(tmp_path: Path) -> None:
    given = update(ONE, data=pd.DataFrame({"text": ["a"]}), **{"tasks.kind.test": pd.DataFrame({"text": ["b"]})})
    save_recipe(tmp_path / "recipe.yaml", given, {})
    loaded = load_recipe(tmp_path)
    assert loaded.tasks["kind"].label == "kind" and loaded.data == {"in_memory": "DataFrame"}
    assert in_memory(loaded) == {"data": "DataFrame", "tasks.kind.test": "DataFrame"} and in_memory(given) == {}
    with pytest.raises(UnitxError, match=r"^data was in memory \(DataFrame\).*unitx\.resume\(RUN, data=…\)$"):
        check(loaded)
    with pytest.raises(UnitxError, match=r'unitx\.resume\(RUN, \*\*\{"tasks\.kind\.test": …\}\)$'):
        check(update(loaded, data="photos/"))


def test_a_column_called_world_is_data_in_memory_too(tmp_path: Path) -> None:
    save_recipe(tmp_path / "recipe.yaml", update(ONE, data={"world": ["a", "b"], "text": ["x", "y"]}), {})
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["given"]["data"] == {"in_memory": "dict"}


def test_however_many_rows_are_in_memory_the_recipe_is_short(tmp_path: Path) -> None:
    for data in ([{"text": "a"}] * 1_000, {"text": ["a"] * 1_000}):
        save_recipe(tmp_path / "recipe.yaml", update(ONE, data=data), {})
        assert (tmp_path / "recipe.yaml").stat().st_size < 500


@pytest.mark.parametrize(
    "text, says",
    [
        (b"steps: [1", "is not valid YAML"),
        (b"- steps", "expected fields, found"),
        (b"steps: many", "steps is 'many'"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"format: 99\ngiven: {}", "has format 99; this version of unitx reads format 1"),
        (b"tasks: [a]", "tasks is"),
    ],
)
def test_files_that_are_no_recipe_are_named(text: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_bytes(text)
    with pytest.raises(UnitxError, match=says) as error:
        load_recipe(tmp_path / "my.yaml")
    assert "my.yaml" in str(error.value) and "\n" not in str(error.value)


def test_yaml_reads_numbers_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("tasks: {a: {}}\nlr: 1e-3\nsteps: 1e3\nepochs:\nmodel:\n")
    recipe = load_recipe(tmp_path / "my.yaml")
    assert (recipe.lr, recipe.steps, recipe.epochs, recipe.model) == (1e-3, 1000, None, ModelRecipe())


def test_an_unknown_recipe_lists_those_that_there_are() -> None:
    with pytest.raises(UnitxError, match=r"no recipe 'cooking': give a YAML file or one of align, .*senses"):
        load_recipe("cooking")
    with pytest.raises(UnitxError, match=r"no recipe 'sense': did you mean 'senses'\?"):
        load_recipe("sense")


def test_options_of_plugins_are_read_as_far_as_their_types_are_known() -> None:
    @dataclasses.dataclass
    class Listed:
        names: list[str]
        exact: bool = False

    found = from_dict(Listed, {"names": ("a", "b"), "exact": np.bool_(True)}, "plugin")
    assert found.names == ("a", "b") and found.exact
    with pytest.raises(UnitxError, match="plugin: names is 'a'; it must be a list"):
        from_dict(Listed, {"names": "a"}, "plugin")

    @dataclasses.dataclass
    class Unknown:
        count: int = 1
        weights: NotImportedHere | None = None  # noqa: F821  # type: ignore[name-defined]

    assert from_dict(Unknown, {"count": 2}, "plugin").count == 2
