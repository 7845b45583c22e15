"""Stamps: what the folder holds, that no part shares anything with another, and that all six tasks learn from them."""

from __future__ import annotations

import math
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from small_data import LANGUAGES, STAMPS, TINY, stamp_folder, write_stamp

import unitx
from unitx.batches import Evaluation, Feed, Preparer, Tally
from unitx.cli import main
from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.registry import TOKENIZERS
from unitx.source import MadeSource
from unitx.task import TaskInfo
from unitx.tokenizer import Processor
from unitx.worlds import waveforms
from unitx.worlds.stamps import FOLDER, PARTS, ROWS, SIDE, VALIDATION, Stamps, picture, read_stamps, split_stamps

RED = '<rect width="30" height="99" fill="red"/>'
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" width="30pt" height="15pt">{RED}</svg>'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stamps of two kinds, with what is missing beside some, and variants."""
    home = stamp_folder(tmp_path_factory.mktemp("stamps"))
    (home / "food" / "cartoon").mkdir()
    (home / "food" / "cartoon" / "plum.svg").write_text(SVG)
    (home / "food" / "cartoon" / "plum.txt").write_text("A plum.\nfr.utf8=Une prune.\n", "utf-8")
    shutil.copy(home / "animals" / "dog.png", home / "animals" / "dog_mirror.png")
    (home / "food" / "jam.svg").write_text("<svg/>")  # the PNG beside it is taken
    (home / "food" / "gift.txt").write_text("A gift.\nfr.utf8=Un cadeau.\n", "utf-8")  # no picture
    (home / "food" / "empty.txt").write_text("", "utf-8")
    soundfile.write(home / "food" / "stray_desc_fr.ogg", np.zeros(8_000), 8_000)  # no name
    soundfile.write(home / "animals" / "cow.ogg", np.zeros(8_000), 8_000)  # a sound, no name spoken
    return home


def world(home: Path, rows: str = "recordings", part: str = "train", **options: object) -> Stamps:
    return Stamps(str(home), rows, **{"languages": LANGUAGES, **options}, part=part)  # type: ignore[arg-type]


def drawn(source: Stamps, seed: int = 0) -> Iterator[dict]:
    return (source.row(i, np.random.default_rng([seed, i])) for i in range(len(source)))


def test_a_stamp_is_all_that_lies_under_one_name(home: Path) -> None:
    stamps = {stamp.concept: stamp for stamp in read_stamps(str(home))}
    dog, jam, gift = stamps["animals/dog"], stamps["food/jam"], stamps["food/gift"]
    assert [file.name for file in dog.pictures] == ["dog.png", "dog_mirror.png"]
    assert dog.names == {"en": "A dog.", "fr": "Un·e dog !", "ru": "Жdogя"}  # empty names and other lines are none
    assert dog.recordings == {code: home / "animals" / f"dog_desc_{code}.ogg" for code in ("fr", "ru")}
    assert [file.name for file in jam.pictures] == ["jam.png"]
    assert not gift.pictures and gift.names["fr"] == "Un cadeau." and stamps["food/empty"].names == {}
    assert stamps["food/stray"].names == {} and list(stamps["food/stray"].recordings) == ["fr"]
    assert len(stamps) == 12 + 4 and "animals/dog_mirror" not in stamps


def test_an_english_recording_has_no_language_in_its_name(tmp_path: Path) -> None:
    write_stamp(tmp_path / "animals" / "my_desc_cat", 0, "animals")
    soundfile.write(tmp_path / "animals" / "emu_desc.ogg", np.zeros(999), 8_000)
    stamps = {stamp.concept: stamp for stamp in read_stamps(str(tmp_path))}
    assert stamps["animals/emu"].recordings == {"en": tmp_path / "animals" / "emu_desc.ogg"}


def test_rows_of_pictures_recordings_and_names(home: Path) -> None:
    found = {rows: [row for part in PARTS for row in drawn(world(home, rows, part))] for rows in ROWS}
    assert len(found["pictures"]) == 12 + 1 + 1 and len(found["recordings"]) == 12 * 2
    assert len(found["names"]) == 12 * 3 + 2 + 2  # the plum and the gift have two each
    for rows, of_kind in found.items():
        for row in of_kind:
            assert list(row) == ["image", "audio", "text", "kind", "language", "name", "to", "translation", "concept"]
            assert row["kind"] == row["concept"].split("/")[0] and row["text"] == row["name"]
            assert (row["audio"] is not None) == (rows == "recordings")
            assert (row["image"] is not None) == (rows != "names")
            assert rows != "pictures" or row["language"] == "en"


def test_a_translation_is_the_name_in_the_language_asked_for(home: Path) -> None:
    names = {stamp.concept: stamp.names for stamp in read_stamps(str(home))}
    for rows in ROWS:
        asked = set()
        for row in (row for seed in range(4) for row in drawn(world(home, rows), seed)):
            assert row["to"] != row["language"] and row["to"] in LANGUAGES
            assert row["text"] == names[row["concept"]][row["language"]]
            assert row["translation"] == names[row["concept"]][row["to"]]
            asked.add((row["concept"], row["language"], row["to"]))
        assert len(asked) > 1.5 * len({(concept, language) for concept, language, _ in asked})


def test_no_part_shares_anything_with_another(home: Path) -> None:
    seen: dict[object, str] = {}
    for part in PARTS:
        for rows in ROWS:
            for row in drawn(world(home, rows, part)):
                shown = [row[name] for name in ("text", "translation", "concept") if row[name]]
                shown += [row["image"].tobytes()] if row["image"] else []
                shown += [row["audio"].read_bytes()] if isinstance(row["audio"], Path) else []
                assert all(seen.setdefault(cell, part) == part for cell in shown)
    assert set(seen.values()) == set(PARTS)
    parts = split_stamps(str(home))
    assert parts["animals/cat"] == parts["animals/cat_2"] and len(parts) == len(read_stamps(str(home)))


def test_what_makes_stamps_alike(tmp_path: Path) -> None:
    """A shared name in any language, or a variant's file name: then they are in one part, wherever they lie."""
    for number in range(60):
        for file, name in ((f"a/x{'abcdefghij'[number // 10]}{'klmnopqrst'[number % 10]}_filled", number),
                           (f"b/x{'abcdefghij'[number // 10]}{'klmnopqrst'[number % 10]}_outline2", 100 + number),
                           (f"c/y{'abcdefghij'[number // 10]}{'klmnopqrst'[number % 10]}", 100 + number)):  # fmt: skip
            path = tmp_path / file
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (1, 1)).save(path.with_suffix(".png"))
            path.with_suffix(".txt").write_text(f"{file}\nfi.utf8=Nimi {name}{'!' * (file[0] == 'c')}\n", "utf-8")
    parts = split_stamps(str(tmp_path))
    of_group: dict[str, set[str]] = {}
    for concept, part in parts.items():
        of_group.setdefault(concept[3:5], set()).add(part)
    assert len(of_group) == 60 and all(len(found) == 1 for found in of_group.values())
    shares = [list(parts.values()).count(part) / len(parts) for part in PARTS]
    np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.02)


def test_the_split_depends_on_no_option(home: Path) -> None:
    for part in PARTS:
        concepts = [{*world(home, rows, part).column("concept")} for rows in ROWS]
        concepts += [{*world(home, "names", part, languages=["fr"]).column("concept")}]
        of_part = {concept for concept, home_part in split_stamps(str(home)).items() if home_part == part}
        assert all(found <= of_part for found in concepts)


def test_held_out_rows_depend_on_their_number_only_and_are_few(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (list(drawn(world(home, "names", "test"), seed)) for seed in (0, 1))
    assert one == other
    monkeypatch.setattr("unitx.worlds.stamps.VALIDATION", 3)
    assert len(world(home, "names", "validation")) == 3 < VALIDATION


def test_pictures_of_every_mode_are_rgb_on_white(home: Path) -> None:
    for stamp in read_stamps(str(home)):
        for file in stamp.pictures:
            shown = picture(file)
            assert isinstance(shown, Image.Image) and shown.mode == "RGB" and max(shown.size) <= SIDE
            if file.suffix == ".png":
                whole = Image.open(file).convert("RGBA")
                ground = Image.new("RGBA", whole.size, "white")
                expected = np.asarray(Image.alpha_composite(ground, whole).convert("RGB"))
                np.testing.assert_array_equal(np.asarray(shown), expected)


def test_an_svg_is_drawn_and_its_sides_may_be_in_points(home: Path) -> None:
    shown = np.asarray(picture(home / "food" / "cartoon" / "plum.svg"))
    assert shown.shape == (SIDE // 2, SIDE, 3)
    # 30 points are 40 pixels, of which the red rectangle has 30.
    assert (shown[:, : SIDE * 3 // 4] == (255, 0, 0)).all() and (shown[:, SIDE * 3 // 4 :] == 255).all()


def test_training_keeps_recordings_as_they_sound(home: Path) -> None:
    source = world(home)
    path = source.row(0, np.random.default_rng(0))["audio"]
    assert isinstance(path, Path) and source.column("audio")[0] == path
    assert source.prepare() is source
    wave, rate = source.row(0, np.random.default_rng(0))["audio"]
    raw, own = soundfile.read(path)
    assert rate == waveforms.BANK_RATE and abs(len(wave) / rate - len(raw) / own) < 1e-3
    spectrum = np.abs(np.fft.rfft(wave))
    pitch = np.abs(np.fft.rfft(raw)).argmax() * own / len(raw)
    assert abs(spectrum.argmax() * rate / len(wave) - pitch) < 5
    assert isinstance(world(home, part="test").prepare().row(0, np.random.default_rng(0))["audio"], Path)


def test_it_is_made_like_the_other_worlds(home: Path) -> None:
    source = open_source({"world": "stamps", "folder": str(home), "rows": "names", "languages": LANGUAGES})
    assert isinstance(source, MadeSource) and source.of_part("test").part == "test"
    packed = pickle.dumps(source)
    assert len(packed) < 1_000 and pickle.loads(packed) == source
    assert source.column("language")[:3] == LANGUAGES
    with pytest.raises(UnitxError, match="'translation'"):
        source.column("translation")


def test_what_is_left_out_is_counted(home: Path) -> None:
    split, *others = world(home).notes
    counts = [list(split_stamps(str(home)).values()).count(part) for part in PARTS]
    assert split.startswith("16 stamps")
    assert all(f"{count} in the {part} part" in split for count, part in zip(counts, PARTS, strict=True))
    assert others == ["1 recordings have no name beside them and are left out"]


def test_broken_files_are_reported_and_skipped(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "stamps"
    shutil.copytree(home, broken)
    files = [stamp for stamp in read_stamps(str(home)) if split_stamps(str(home))[stamp.concept] == "train"]
    names = [stamp.concept for stamp in files if stamp.recordings and stamp.names][:2]
    (broken / f"{names[0]}.png").write_bytes(b"no picture")
    (broken / f"{names[1]}_desc_fr.ogg").write_bytes((home / f"{names[1]}_desc_fr.ogg").read_bytes()[:900])
    (broken / "food" / "cartoon" / "plum.svg").write_text("<svg")
    preparer = Preparer(processors())
    for rows, reads, bad in (
        ("pictures", {"image": "image"}, [f"{names[0]}.png", "plum.svg"]),
        ("recordings", {"audio": "audio"}, [f"{names[1]}_desc_fr.ogg"]),
    ):
        counted = 0
        for part in PARTS:
            source = world(broken, rows, part).prepare()
            info = TaskInfo("caption", "caption", reads, "name")
            tally = Tally()
            batches = Evaluation(preparer, Feed(info, source, rows=4))
            for batch in (batches[number] for number in range(len(batches))):
                tally.add(batch if isinstance(batch, Tally) else batch.tally)
            counted += len(tally.skipped)
            assert all(any(name in skipped for name in bad) for skipped in tally.skipped)
            assert len(tally.rows) == len(source) - len(tally.skipped)
        assert counted == len(bad)


def processors() -> dict[str, Processor]:
    options = {"image": {"patch": 8, "max_tokens": 4}, "text": {"max_tokens": 64}, "audio": {"max_tokens": 8}}
    return {modality: TOKENIZERS.get(modality).Processor(**given) for modality, given in options.items()}


def test_six_tasks_learn_from_them_and_are_judged(home: Path, tmp_path: Path) -> None:
    given = {**TINY, "tokenizers.text": {"vocabulary": "bytes", "max_tokens": 64}, "batch_tokens": 600}
    folder = {"data.folder": str(home), "data.languages": LANGUAGES}
    run = unitx.train("stamps", echo=False, out=str(tmp_path / "run"), steps=2, evaluations=1, **given, **folder)
    tasks = ["kind", "language", "translate", "transcribe", "caption", "align"]
    assert all(math.isfinite(value) for value in run.metrics.values())
    assert {name.split("/")[0] for name in run.metrics} == {*tasks}
    model = run.model
    assert model.labels("kind") == ["animals", "food"] and model.labels("language") == LANGUAGES
    shown, heard = home / "animals" / "dog.png", home / "animals" / "dog_desc_fr.ogg"
    assert model.predict([shown], "kind")[0][0].label in STAMPS
    assert model.predict(["Une prune."], "language")[0][0].label in LANGUAGES
    for task, item in (("caption", shown), ("transcribe", heard), ("translate", {"text": "A dog.", "to": "fr"})):
        assert isinstance(model.predict([item], task)[0][0].label, str)
    assert model.embed([shown, heard, "A dog."]).shape == (3, 32)
    pictures = {"world": "stamps", "rows": "pictures", "folder": str(home), "languages": LANGUAGES}
    report = unitx.evaluate(model, pictures, "kind")
    assert "recorded data: their test part is scored" in report.notes


def test_wrong_settings(home: Path) -> None:
    for options, words in (
        ({"part": "dev"}, "no part 'dev'; they have: train"),
        ({"rows": "sounds"}, "no rows 'sounds'; they have: pictures"),
        ({"languages": ["fr", "xx"]}, "no names in 'xx'; they have in: en, fr, ru"),
    ):
        with pytest.raises(UnitxError, match=words):
            world(home, **options)


def test_without_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnitxError, match=r"apt-get install tuxpaint-stamps-default; or.*dpkg-deb -x.*--data.folder"):
        Stamps(str(tmp_path / "nowhere"))
    if not Path(FOLDER).is_dir():
        assert main(["train", "stamps", "--out", str(tmp_path / "run")]) != 0
        assert "apt-get install tuxpaint-stamps-default" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_a_renderer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    picture.cache_clear()
    with pytest.raises(UnitxError, match=r"pip install 'unitx-toolkit\[demo\]'"):
        picture(home / "food" / "cartoon" / "plum.svg")
    assert isinstance(picture(home / "animals" / "dog.png"), Image.Image)
