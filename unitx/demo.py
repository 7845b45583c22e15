"""`unitx demo`: one backbone learns a hundred emoji from pictures, words and speech, and shows what it learned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unitx.checkpoint import checkpoints, load_progress
from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.recipe import load_recipe, update
from unitx.training import train
from unitx.worlds.emoji import EmojiWorld
from unitx.worlds.pictures import ATTRIBUTION

LANGUAGE_NAMES = {"en": "English", "es": "Spanish", "fr": "French"}


@dataclass
class Showcase:
    """Items that were never trained on, and what the model makes of them.

    Attributes:
        concepts: the concepts' English names.
        pictures, clips, words: the items of each sense. concept_of: sense → (n,) the concept's number of each item.
        vectors: sense → (n, dim) unit vectors.
    """

    concepts: list[str]
    pictures: list[Any]
    clips: list[tuple[np.ndarray, int]]
    words: list[str]
    concept_of: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]


def demo(out: str | Path = "runs/demo", *, minutes: float = 4.0, seed: int = 0) -> dict[str, float]:
    """Train (unless `out` holds a trained model already), print a table of retrieval, draw two pictures.

    Returns: "image→name" and so on → recall@1 among the concepts, on renderings and voices of the test part.
    """
    folder = Path(out).expanduser()
    if (folder / "recipe.yaml").is_file() and (folder / "model" / "config.json").is_file():
        print(f"{folder} holds a trained model: showing that one (remove the folder to train anew)")
        _tell_if_stopped(folder)
        model = Model.from_pretrained(folder)
    else:
        model = _train(folder, minutes, seed)
    world = _world(folder)
    (folder / "concepts.json").write_text(json.dumps(world.concepts_json(), ensure_ascii=False, indent=1), "utf-8")
    print("\nWhat it learned, on pictures and voices that it has never seen or heard:\n")
    shown = show(model, world)
    table = recalls(shown)
    _print_table(table, len(shown.concepts))
    _write_samples(folder, shown)
    _draw(folder, world, shown)
    _print_next(folder, world)
    return table


def _tell_if_stopped(folder: Path) -> None:
    saved, minutes = checkpoints(folder / "checkpoints"), load_recipe(folder).minutes or 0.0
    if saved and (seconds := load_progress(saved[-1]).seconds) < 60 * minutes:
        print(
            f"Its training was stopped after {seconds:.0f} of {60 * minutes:.0f} seconds; "
            f"it goes on with: unitx train --resume {folder}"
        )


def _train(folder: Path, minutes: float, seed: int) -> Model:
    recipe = update(load_recipe("senses"), out=str(folder), minutes=minutes, seed=seed)
    world: Any = open_source(recipe.data)
    languages = ", ".join(LANGUAGE_NAMES.get(code, code) for code in world.languages)
    print(
        f"One transformer is going to see, read and hear {len(world.emoji)} things: {' '.join(world.emoji[:24])} …\n"
        f"Pictures are drawn anew each time, names are written in {languages}, and said by two synthesizers.\n"
        f"It trains for {minutes:g} minutes; nothing is downloaded. {ATTRIBUTION}\n"
    )
    return train(recipe).model


def _world(folder: Path) -> EmojiWorld:
    """The test part of the world that a run's model was trained in."""
    data = load_recipe(folder).data
    if not isinstance(data, dict) or data.get("world") != "emoji":
        raise UnitxError(f"{folder} is not a run of the demo; give another folder with --out")
    world: Any = open_source(data)
    return world.of_part("test")


def show(model: Model, world: EmojiWorld) -> Showcase:
    """Embed the test part: every row's picture or clip, and the names in all languages."""
    number = {name: i for i, name in enumerate(world.labels)}
    pictures: list[Any] = []
    clips: list[Any] = []
    words: list[str] = []
    concept_of: dict[str, list[int]] = {"image": [], "audio": [], "text": []}
    for index in range(len(world)):
        row = world.row(index, np.random.default_rng(index))
        for sense, found in (("image", pictures), ("audio", clips)):
            if row[sense] is not None:
                found.append(row[sense])
                concept_of[sense].append(number[row["concept"]])
    for i, names in enumerate(world.names.values()):
        words += names.values()
        concept_of["text"] += [i] * len(names)
    items = {"image": pictures, "audio": clips, "text": words}
    vectors = {sense: model.embed(found, modality=sense) for sense, found in items.items()}
    numbers = {sense: np.array(found) for sense, found in concept_of.items()}
    return Showcase(list(world.labels), pictures, clips, words, numbers, vectors)


def recalls(shown: Showcase) -> dict[str, float]:
    """recall@1 for each pair of senses. The gallery is one picture or clip a concept, or all names in all languages."""
    names = {"image": "image", "audio": "speech", "text": "name"}
    found = {}
    for asking, wanted in (("image", "text"), ("audio", "text"), ("audio", "image"),
                           ("text", "image"), ("text", "audio"), ("image", "audio")):  # fmt: skip
        gallery = np.arange(len(shown.concept_of[wanted]))
        if wanted != "text":
            gallery = np.unique(shown.concept_of[wanted], return_index=True)[1]
        nearest = gallery[(shown.vectors[asking] @ shown.vectors[wanted][gallery].T).argmax(1)]
        right = shown.concept_of[wanted][nearest] == shown.concept_of[asking]
        found[f"{names[asking]}→{names[wanted]}"] = float(right.mean())
    return found


def _print_table(table: dict[str, float], concepts: int) -> None:
    print(f"  {'nearest of ' + str(concepts) + ' concepts':28} recall@1   chance")
    for name, value in table.items():
        print(f"  {name:28} {value:7.1%} {1 / concepts:8.1%}")


def _write_samples(folder: Path, shown: Showcase) -> None:
    """One picture and one recording a concept, as files to play with."""
    import soundfile

    for sense, name in (("image", "pictures"), ("audio", "speech")):
        (folder / name).mkdir(exist_ok=True)
        numbers, first = np.unique(shown.concept_of[sense], return_index=True)
        for concept, place in zip(numbers.tolist(), first.tolist(), strict=True):
            stem = folder / name / _stem(shown.concepts[concept])
            if sense == "image":
                shown.pictures[place].save(stem.with_suffix(".png"))
            else:
                soundfile.write(stem.with_suffix(".wav"), *shown.clips[place])


def _stem(concept: str) -> str:
    return concept.replace(" ", "-").replace("/", "-")


def _draw(folder: Path, world: EmojiWorld, shown: Showcase) -> None:
    from unitx.plots import draw_search, draw_space
    from unitx.worlds.pictures import picture

    markers = [picture(emoji, 48) for emoji in world.emoji]
    draw_space(shown.vectors, shown.concept_of, markers, folder / "space.png", ATTRIBUTION)
    draw_search(_queries(shown), _gallery(shown), folder / "search.png", ATTRIBUTION)
    print(
        f"\nTwo pictures of it:\n  {folder / 'space.png'}   the shared space: pictures, words and speech side by side"
    )
    print(f"  {folder / 'search.png'}  what it finds for typed, spoken and drawn queries")


def _gallery(shown: Showcase) -> tuple[list[Any], np.ndarray]:
    """One picture a concept, with the vectors."""
    first = np.unique(shown.concept_of["image"], return_index=True)[1]
    return [shown.pictures[i] for i in first], shown.vectors["image"][first]


def _queries(shown: Showcase) -> list[tuple[str, Any, np.ndarray]]:
    """(sense, item, vector) of three typed, three spoken and three drawn queries, of concepts spread over the list."""
    rng = np.random.default_rng(1)
    items: dict[str, list[Any]] = {"text": shown.words, "audio": shown.clips, "image": shown.pictures}
    in_gallery = np.unique(shown.concept_of["image"], return_index=True)[1]
    found = []
    for sense, of_sense in items.items():
        places = np.setdiff1d(np.arange(len(of_sense)), in_gallery if sense == "image" else [])
        for place in rng.choice(places, 3, replace=False).tolist():
            label = shown.concepts[shown.concept_of[sense][place]]
            item = (label, of_sense[place]) if sense == "audio" else of_sense[place]
            found.append((sense, item, shown.vectors[sense][place]))
    return found


def _print_next(folder: Path, world: EmojiWorld) -> None:
    emoji, seen = world.emoji[0], world.labels[0]
    said = world.names[emoji][world.languages[min(1, len(world.languages) - 1)]]
    print(
        "\nTry next:\n"
        f"  unitx embed {folder} {folder}/pictures -o {folder}/pictures.parquet\n"
        f'  unitx search {folder} {folder}/pictures.parquet "{said}"\n'
        f"  unitx search {folder} {folder}/pictures.parquet {folder}/speech/{_stem(seen)}.wav"
    )
