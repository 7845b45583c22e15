from __future__ import annotations

import importlib
import importlib.metadata
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unitx.backbone import Backbone
from unitx.config import BackboneConfig
from unitx.errors import UnitxError
from unitx.registry import TASKS, TOKENIZERS, Registry, import_plugin
from unitx.tokens import Prepared, Tokens, collate

# A whole new modality: readings of an electronic nose, seven sensors a second.
SMELL = """
from dataclasses import dataclass

import numpy as np
from torch import nn

from unitx.errors import BadItem
from unitx.registry import register_tokenizer
from unitx.tokenizer import Processor, Tokenizer
from unitx.tokens import Pieces, line_positions


@dataclass(frozen=True)
class SmellProcessor(Processor):
    sensors: int = 7

    def read(self, item):
        readings = np.asarray(item, dtype=np.float32)
        if readings.ndim != 2 or readings.shape[1] != self.sensors or not len(readings):
            raise BadItem(f"smell of shape {readings.shape}: give (seconds, {self.sensors}) readings")
        return readings

    def features(self, raw):
        return np.log1p(raw)

    def cut(self, features, rng=None):
        start = 0 if rng is None else int(rng.integers(max(1, len(features) - self.max_tokens + 1)))
        kept = features[start : start + self.max_tokens]
        return Pieces(kept, line_positions(len(kept)), shortened=len(kept) < len(features))


@register_tokenizer("smell")
class Smell(Tokenizer):
    Processor = SmellProcessor

    def __init__(self, processor, dim):
        super().__init__(processor, dim)
        self.embed = nn.Linear(processor.sensors, dim)

    def forward(self, values, counts):
        return self.embed(values)
"""


def plugin(name: str, cls: str = "Thing", kind: str = "tokenizer") -> str:
    return f"from unitx.registry import register_{kind}\n@register_{kind}({name!r})\nclass {cls}:\n    pass\n"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Whatever a test registers or imports is forgotten after it."""
    before, modules = [(r, dict(r._classes)) for r in (TOKENIZERS, TASKS)], set(sys.modules)
    yield
    for registry, classes in before:
        shipped = {name: cls for name, cls in registry._classes.items() if registry._is_own(cls)}
        registry._classes.clear()
        registry._classes.update(shipped | classes)
    for name in set(sys.modules) - modules:
        if name.startswith(("unitx_plugin_", "my_senses")) or name in {"odour", "shop"}:
            del sys.modules[name]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry whose package ships one module, `bread`, imported only when asked for."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "bread.py").write_text(
        "import __main__\n__main__.shop.register('bread')(type('Bread', (), {'__module__': __name__}))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("ware", "shop")
    monkeypatch.setattr(sys.modules["__main__"], "shop", registry, raising=False)
    yield registry
    sys.modules.pop("shop.bread", None)


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_what_ships_is_imported_when_its_name_is_asked_for(shop: Registry) -> None:
    assert shop.names() == ["bread"]
    assert "shop.bread" not in sys.modules
    cls = shop.get("bread")
    assert cls.__module__ == "shop.bread" and shop.get("bread") is cls
    assert shop.file_of("bread") is None


def test_an_unknown_name_lists_the_names_there_are(shop: Registry) -> None:
    shop.register("milk")(type("Milk", (), {}))
    for unknown in ("beer", "bread.py", "../bread", ""):
        with pytest.raises(UnitxError) as caught:
            shop.get(unknown)
        assert str(caught.value) == f"there is no ware called '{unknown}'; there are: bread, milk"


def test_the_registries_know_all_that_ships() -> None:
    for registry in (TOKENIZERS, TASKS):
        folder = Path(__file__).parents[1] / registry.package.split(".")[1]
        shipped = {file.stem for file in folder.glob("*.py")}
        assert shipped and shipped <= set(registry.names())
        for name in shipped:
            assert registry.get(name).__module__ == f"{registry.package}.{name}"
            assert registry.file_of(name) is None
        with pytest.raises(UnitxError, match=", .*".join(sorted(shipped))):
            registry.get("no_such_thing")


@pytest.mark.parametrize("kind, registry", [("tokenizer", TOKENIZERS), ("task", TASKS)])
def test_a_name_registered_twice_names_both_files(tmp_path: Path, kind: str, registry: Registry) -> None:
    first = write(tmp_path / "a", "smell.py", plugin("smell", "A", kind))
    second = write(tmp_path / "b", "smell.py", plugin("smell", "B", kind))
    import_plugin(first)
    with pytest.raises(UnitxError) as caught:
        import_plugin(second)
    assert str(first) in str(caught.value) and str(second) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert registry.get("smell").__name__ == "A"


def test_a_name_used_twice_in_one_file_is_no_less_an_error(tmp_path: Path) -> None:
    file = write(tmp_path, "smell.py", plugin("smell", "A") + plugin("smell", "B"))
    with pytest.raises(UnitxError, match="registered twice"):
        import_plugin(file)


def test_a_plugin_cannot_take_the_name_of_what_ships(shop: Registry, tmp_path: Path) -> None:
    assert "shop.bread" not in sys.modules
    file = write(tmp_path / "a", "roll.py", "import __main__\n@__main__.shop.register('bread')\nclass Roll: pass\n")
    with pytest.raises(UnitxError) as caught:
        import_plugin(file)
    assert str(file) in str(caught.value) and str(tmp_path / "shop" / "bread.py") in str(caught.value)


def test_a_file_is_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = tmp_path / "count"
    body = f"with open({str(count)!r}, 'a') as f:\n    f.write('x')\n"
    file = write(tmp_path, "smell.py", plugin("smell") + body)
    import_plugin(file)
    cls = TOKENIZERS.get("smell")
    monkeypatch.chdir(tmp_path)
    import_plugin("smell.py")
    import_plugin(str(tmp_path / "x" / ".." / "smell.py"))
    assert count.read_text() == "x" and TOKENIZERS.get("smell") is cls


def test_a_cell_of_a_notebook_may_run_again() -> None:
    namespace = {"__name__": "__main__"}
    exec(plugin("smell"), namespace)
    exec(plugin("smell"), namespace)
    assert TOKENIZERS.get("smell") is namespace["Thing"]


@pytest.mark.parametrize(
    "body, reason",
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    ],
)
def test_a_plugin_that_fails_is_named_and_can_be_mended(tmp_path: Path, body: str, reason: str) -> None:
    file = write(tmp_path, "smell.py", plugin("smell") + body + "\n")
    with pytest.raises(UnitxError) as caught:
        import_plugin(file)
    assert str(file) in str(caught.value) and reason in str(caught.value)
    assert "\n" not in str(caught.value)
    file.write_text(plugin("smell"))
    importlib.invalidate_caches()
    file.touch()
    import_plugin(file)
    assert TOKENIZERS.get("smell").__name__ == "Thing"


@pytest.mark.parametrize("missing", ["nowhere/smell.py", "no_such_module", "smell.txt", "a/b", ".", ""])
def test_a_plugin_that_is_not_there_is_one_line(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnitxError, match="--import") as caught:
        import_plugin(missing)
    assert "\n" not in str(caught.value)


def test_a_saved_model_says_which_file_to_import(tmp_path: Path) -> None:
    file = write(tmp_path, "smell.py", plugin("smell"))
    with pytest.raises(UnitxError, match=r"lives in smell\.py, which was not imported: pass --import smell\.py"):
        TOKENIZERS.get("smell", file="smell.py")
    import_plugin(file)
    assert TOKENIZERS.get("smell", file="smell.py").__name__ == "Thing"
    assert TOKENIZERS.file_of("smell") == "smell.py"


def test_a_plugin_imported_as_a_module_is_named_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_senses").mkdir()
    write(tmp_path / "my_senses", "nose.py", plugin("smell"))
    monkeypatch.syspath_prepend(tmp_path)
    import_plugin("my_senses.nose")
    assert TOKENIZERS.file_of("smell") == "my_senses.nose"
    with pytest.raises(UnitxError, match=r"lives in my_senses\.nose, .*: pass --import my_senses\.nose, or call"):
        TOKENIZERS.get("taste", file="my_senses.nose")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, points: str, module: str) -> None:
    """What pip leaves behind: a module and its metadata."""
    write(folder, "odour.py", module)
    info = folder / "odour-1.0.dist-info"
    write(info, "METADATA", "Metadata-Version: 2.1\nName: odour\nVersion: 1.0\n")
    write(info, "entry_points.txt", points)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("target", ["odour", "odour:Odour"])
def test_an_installed_package_offers_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    points = f"[unitx.tokenizers]\nodour = {target}\n"
    install(tmp_path / "site", monkeypatch, points, plugin("odour", "Odour"))
    assert "odour" in TOKENIZERS.names() and "odour" not in sys.modules
    assert TOKENIZERS.get("odour").__name__ == "Odour"
    assert "odour" not in TASKS.names()


def test_entry_points_are_asked_for_by_group_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Point:
        name, value = "odour", "odour:Odour"

        def load(self) -> None:
            TASKS.register("odour")(type("Odour", (), {}))

    def entry_points(**which: str) -> list[Point]:
        asked.append(which)
        return [Point()] if which.get("group") == "unitx.tasks" and which.get("name", "odour") == "odour" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert TASKS.get("odour").__name__ == "Odour"
    assert asked == [{"group": "unitx.tasks", "name": "odour"}]
    with pytest.raises(UnitxError, match="odour"):
        TASKS.get("no_such_thing")


def test_an_installed_package_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, "[unitx.tokenizers]\nodour = odour:Odour\n", "1 / 0\n")
    with pytest.raises(UnitxError, match=r"'odour' of an installed package \(odour:Odour\): ZeroDivisionError"):
        TOKENIZERS.get("odour")


def test_a_new_modality_is_one_file(tmp_path: Path) -> None:
    """From readings to what the backbone makes of them, beside text in one sequence."""
    file = write(tmp_path, "smell.py", SMELL)
    assert len([line for line in SMELL.splitlines() if line.strip()]) < 40
    import_plugin(file)
    cls = TOKENIZERS.get("smell")
    tokenizer = cls(cls.Processor(max_tokens=5), 16)
    readings = [torch.rand(n, 7).tolist() for n in (3, 9)]
    pieces = [tokenizer.processor.prepare(item) for item in readings]
    assert [len(p) for p in pieces] == [3, 5] and [p.shortened for p in pieces] == [False, True]

    batch = collate([Prepared([("smell", p)]) for p in pieces], ["smell"])
    vectors = tokenizer(batch.values["smell"], batch.counts["smell"])
    out = Backbone(BackboneConfig(dim=16, depth=1, heads=2))(Tokens(vectors, batch.layout)).to_list()
    assert [tuple(x.shape) for x in out] == [(3, 16), (5, 16)]
    with pytest.raises(UnitxError, match=r"give \(seconds, 7\) readings"):
        tokenizer.processor.prepare([[1.0, 2.0]])


def test_a_plugins_processor_reaches_a_worker_that_imported_it_first(tmp_path: Path) -> None:
    """Workers started afresh (spawn) import the plugin by its path and then unpickle."""
    file = write(tmp_path, "smell.py", SMELL)
    import_plugin(file)
    parcel = write(tmp_path, "parcel", "")
    parcel.write_bytes(pickle.dumps(TOKENIZERS.get("smell").Processor(max_tokens=5)))
    code = (
        "import pickle, sys\nfrom unitx.registry import import_plugin\nimport_plugin(sys.argv[1])\n"
        "print(pickle.load(open(sys.argv[2], 'rb')).max_tokens)"
    )
    run = subprocess.run([sys.executable, "-c", code, file, parcel], capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout.strip() == "5", run.stderr
