"""A file of embeddings that grows, and exact search in it.

The file is Parquet, so that any tool reads it: a row an item, with the columns `item`, `modality`, `embedding` (a
fixed-size list of float32) and `fingerprint`. An item is a text, or a file's path: relative to the index's own folder
where it lies below it, so that the two can be moved together, else absolute.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from unitx.errors import BadItem, UnitxError
from unitx.folders import scan
from unitx.identity import model_identity
from unitx.media import describe, is_missing_file, named_file, suffix_modality
from unitx.paths import check_writable

if TYPE_CHECKING:

    from unitx.model import Model
    from unitx.towers import Towers

COLUMNS = ("item", "modality", "embedding", "fingerprint")
MODEL_KEY = b"unitx.models"  # where the Parquet metadata say whose embeddings these are, modality by modality
PORTION = 2_048  # items embedded at once: two of `embed`'s chunks, so that one is read while the other is computed
OTHERS = (".csv", ".tsv", ".json", ".jsonl", ".npy", ".txt")  # files that are no index
TEXT, MISSING = "", "missing"  # fingerprints of what is no file, and of a file that is not there
Key = tuple[str, bool]  # the item as it is stored, and whether it is a file


class Hit(NamedTuple):
    """An item that was found; its score is the cosine with the query. A file's path can be opened as it stands."""

    item: str
    score: float
    modality: str


@dataclass
class Added:
    """What `Index.add` did: numbers of items.

    Attributes:
        new: embedded for the first time.
        changed: embedded anew, because the file is another than before.
        unchanged: left as they were.
        skipped: could not be read, and are not in the index.
        dropped: files of an added folder that are no longer there.
        problems: a line for each skipped item.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    skipped: int = 0
    dropped: int = 0
    problems: list[str] = field(default_factory=list, repr=False)


class Entry(NamedTuple):
    """An item to be in the index: what the model is given, as what, and what tells whether it has changed."""

    source: str | Path
    modality: str
    fingerprint: str


class Index:
    """The embeddings in a Parquet file, which is made by the first `add`.

    Raises:
        UnitxError: the path is a folder, or a file that no `Index` wrote.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self._base = os.path.abspath(self.path.parent)
        self._keys: list[Key] = []
        self._modalities: list[str] = []
        self._fingerprints: list[str] = []
        self._blocks: list[np.ndarray] = [np.zeros((0, 0), dtype=np.float32)]
        self._model: dict[str, str] = {}  # modality → `model_identity`
        self._unsaved = 0
        if self.path.is_dir():
            raise UnitxError(f"{path} is a folder: name a file for the embeddings, such as {self.path / 'all.parquet'}")
        if self.path.suffix.lower() in OTHERS:
            raise UnitxError(f"{path}: embeddings are kept as Parquet: name it {self.path.with_suffix('.parquet')}")
        if self.path.exists():
            self._load()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def embeddings(self) -> np.ndarray:
        """(n, dim) float32, rows of unit length, in the order of `items`."""
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate([block for block in self._blocks if len(block)])]
        return self._blocks[0]

    @property
    def items(self) -> list[str]:
        """The n texts and paths; a path stands as it can be opened from the folder that the index was opened from."""
        return [self._shown(key) for key in self._keys]

    def add(
        self,
        model: Model | Towers,
        items: str | Path | Iterable[str | Path],
        modality: str | None = None,
        *,
        on_error: str = "skip",
        show_progress: bool | None = None,
    ) -> Added:
        """Embed what is new or changed, and write the file.

        A file has changed if its size or its time of change has. What has been computed is written every now and then,
        and also when an error or Ctrl-C ends the work.

        Args:
            items: a folder (all files below it that the model reads; files that are no longer there are dropped), a
                file, or a list of texts and files. In a list a `Path`, or a string that names an existing file with a
                known suffix, is a file, any other string a text.
            modality: what every item is: with "text" all strings are texts, with another one they are paths; of a
                folder only such files are added.
            on_error: "skip" (and warn once) or "raise" for an item that cannot be read.
            show_progress: None for a bar when there are many items and a terminal.

        Raises:
            UnitxError: nothing there, a modality that the model does not read, an index of another model, or a file
                that cannot be written.
            BadItem: an item that cannot be read, with `on_error="raise"`.
        """
        check_writable(self.path.parent, str(self.path))
        self._claim(model)
        given, folder = self._given(model, items, modality)
        held = dict(zip(self._keys, zip(self._modalities, self._fingerprints, strict=True), strict=True))
        stale = {key for key, entry in given.items() if key in held and held[key] != entry[1:]}
        gone = self._vanished(folder) - given.keys() if folder else set()
        self._drop(stale | gone)
        todo = {key: entry for key, entry in given.items() if key not in held or key in stale}
        problems = self._embed(model, todo, on_error, show_progress)
        if problems:
            first = next(iter(problems.values()))
            warnings.warn(f"{len(problems)} of {len(given)} items could not be read; the first: {first}", stacklevel=2)
        changed = len(stale - problems.keys())
        return Added(
            new=len(todo) - len(problems) - changed,
            changed=changed,
            unchanged=len(given) - len(todo),
            skipped=len(problems),
            dropped=len(gone),
            problems=list(problems.values()),
        )

    def search(self, model: Model | Towers, query: Any, top: int = 5, modality: str | None = None) -> list[Hit]:
        """The `top` items nearest to a query, best first; exact, by the cosines with all of them.

        Args:
            query: one item of any modality, as `Model.embed` takes it.
            modality: what the query is, where it should not be told from it.

        Raises:
            UnitxError: the index is empty or of another model, or the query cannot be read.
        """
        if not len(self):
            raise UnitxError(f"{self.path} holds no embeddings yet: add some with index.add or unitx embed")
        if top < 1:
            raise UnitxError(f"top is {top}; ask for at least one item")
        self._claim(model)
        scores = self.embeddings @ model.embed([query], modality)[0]
        top = min(top, len(self))
        best = np.argpartition(-scores, top - 1)[:top]
        best = best[np.lexsort((best, -scores[best]))]
        return [Hit(self._shown(self._keys[i]), float(scores[i]), self._modalities[i]) for i in best]

    def _claim(self, model: Model | Towers) -> None:
        """An empty index takes any model, another one only a model that embeds what it holds as the first did."""
        identities = model_identity(model)
        if any(identities.get(modality) != self._model[modality] for modality in set(self._modalities)):
            raise UnitxError(
                f"{self.path} holds embeddings of another model, which cannot be compared with this one's: "
                "use that model, or make a new index"
            )
        self._model = identities

    def _key(self, path: str | Path) -> Key:
        absolute, inside = os.path.abspath(path), self._base.rstrip(os.sep) + os.sep
        return (absolute[len(inside) :].replace(os.sep, "/") if absolute.startswith(inside) else absolute), True

    def _shown(self, key: Key) -> str:
        item, is_file = key
        return str(self.path.parent / item) if is_file else item

    def _given(self, model: Model | Towers, items: Any, modality: str | None) -> tuple[dict[Key, Entry], str | None]:
        """The entries that the user means, each once, and the folder that they come from if it is one."""
        if modality is not None:
            model.check_reads(modality)
        if not isinstance(items, str | Path):
            return dict(self._entry(model, item, modality) for item in items), None
        path = os.path.expanduser(items)
        if os.path.isdir(path):
            found, _ = scan(Path(path))
            wanted = {m: names for m, names in found.items() if m in model.modalities and modality in (None, m)}
            files = [(m, Path(path, name)) for m, names in sorted(wanted.items()) for name in sorted(names)]
            if not files and not self._vanished(path):
                kinds = modality or ", ".join(model.modalities)
                raise UnitxError(f"{items} holds no file that the model reads ({kinds}): name another folder")
            return {self._key(file): Entry(file, m, _fingerprint(file)) for m, file in files}, path
        if not os.path.isfile(path):
            raise UnitxError(f"{describe(items)}: there is no such file or folder; give texts in a list, [text, …]")
        return dict([self._entry(model, Path(path), modality)]), None

    def _entry(self, model: Model | Towers, item: Any, modality: str | None) -> tuple[Key, Entry]:
        if not isinstance(item, str | Path):
            raise UnitxError(f"{describe(item)}: an index holds texts and files; save it to a file and give its path")
        if os.path.isdir(item) and (isinstance(item, Path) or item.endswith(("/", os.sep))):
            raise UnitxError(f"{item} is a folder: add it by itself, index.add(model, {str(item)!r})")
        names_file = isinstance(named_file(item), Path) or is_missing_file(item)
        is_file = isinstance(item, Path) or (modality != "text" if modality else names_file)
        kind = modality or (suffix_modality(item) if is_file else "text")
        if kind is None:
            raise UnitxError(f"cannot tell what {item} is: pass modality= ({', '.join(model.modalities)})")
        model.check_reads(kind)
        if not is_file:
            return (str(item), False), Entry(str(item), kind, TEXT)
        path = Path(item).expanduser()
        return self._key(path), Entry(path, kind, _fingerprint(path))

    def _vanished(self, folder: str) -> set[Key]:
        """The files below a folder that are in the index and no longer on the disk."""
        inside = os.path.abspath(folder).rstrip(os.sep) + os.sep
        places = ((key, os.path.join(self._base, key[0])) for key in self._keys if key[1])
        return {key for key, path in places if path.startswith(inside) and not os.path.exists(path)}

    def _drop(self, keys: set[Key]) -> None:
        if not keys:
            return
        kept = [i for i, key in enumerate(self._keys) if key not in keys]
        self._blocks = [self.embeddings[kept]]
        for name in ("_keys", "_modalities", "_fingerprints"):
            setattr(self, name, [getattr(self, name)[i] for i in kept])
        self._unsaved += len(keys)

    def _embed(
        self, model: Model | Towers, todo: dict[Key, Entry], on_error: str, show_progress: bool | None
    ) -> dict[Key, str]:
        """Embed entries and write them, portion by portion; returns what is wrong with those that were skipped."""
        from tqdm import tqdm

        keys = list(todo)
        problems: dict[Key, str] = {}
        hidden = not (len(keys) > PORTION and sys.stderr.isatty()) if show_progress is None else not show_progress
        try:
            with tqdm(total=len(keys), disable=hidden, unit="item") as bar:
                for first in range(0, len(keys), PORTION):
                    portion = keys[first : first + PORTION]
                    sources = [{todo[key].modality: todo[key].source} for key in portion]
                    vectors, problem = _try_embed(model, sources, on_error)
                    problems |= {portion[i]: why for i, why in problem.items()}
                    good = [i for i in range(len(portion)) if i not in problem]
                    self._append([(portion[i], todo[portion[i]]) for i in good], vectors[good])
                    bar.update(len(portion))
                    # A share of what is there, so that the writing of a large file is not most of the work.
                    if self._unsaved >= max(PORTION, len(self) // 20):
                        self._save()
        finally:
            if self._unsaved:
                self._save()
        return problems

    def _append(self, entries: list[tuple[Key, Entry]], vectors: np.ndarray) -> None:
        for key, entry in entries:
            self._keys.append(key)
            self._modalities.append(entry.modality)
            self._fingerprints.append(entry.fingerprint)
        if len(entries):
            self._blocks.append(vectors)
        self._unsaved += len(entries)

    def _load(self) -> None:
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(self.path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise UnitxError(f"{self.path} cannot be read as Parquet; name another file, or remove it") from error
        kind: Any = table.schema.field("embedding").type if "embedding" in table.column_names else None
        fits = kind is not None and pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32()
        metadata = table.schema.metadata or {}
        if tuple(table.column_names) != COLUMNS or not fits:
            raise UnitxError(
                f"{self.path} is no index: its columns are {', '.join(table.column_names) or 'none'} "
                f"(an index, made by `unitx embed`, has {', '.join(COLUMNS)}); name another file"
            )
        if MODEL_KEY not in metadata:
            raise UnitxError(f"{self.path} does not say which model its embeddings are of: make a new index")
        self._model = json.loads(metadata[MODEL_KEY])
        self._fingerprints = table.column("fingerprint").to_pylist()
        self._modalities = table.column("modality").to_pylist()
        is_file = (mark != TEXT for mark in self._fingerprints)
        self._keys = list(zip(table.column("item").to_pylist(), is_file, strict=True))
        parts = [chunk.flatten().to_numpy() for chunk in table.column("embedding").chunks]
        self._blocks = [np.concatenate([np.zeros(0, np.float32), *parts]).reshape(-1, kind.list_size)]

    def _save(self) -> None:
        """Write the whole file beside the old one and put it in its place."""
        import pyarrow.parquet

        vectors = self.embeddings
        columns = (
            pa.array([item for item, _ in self._keys], pa.string()),
            pa.array(self._modalities, pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=_vector(vectors.shape[1])),
            pa.array(self._fingerprints, pa.string()),
        )
        table = pa.table(dict(zip(COLUMNS, columns, strict=True)), metadata={MODEL_KEY: json.dumps(self._model)})
        writing = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Vectors do not compress, and a dictionary or statistics of them cost more time than the vectors.
            pyarrow.parquet.write_table(
                table, writing, compression="none", use_dictionary=["modality"], write_statistics=False
            )
            os.replace(writing, self.path)
        except OSError as error:
            raise UnitxError(f"{self.path} cannot be written ({error.strerror or error}): name another file") from error
        finally:
            writing.unlink(missing_ok=True)
        self._unsaved = 0


def _vector(dim: int) -> pa.DataType:
    """Without nulls, which are slow to write and to read."""
    return pa.list_(pa.field("element", pa.float32(), nullable=False), dim)


def _fingerprint(path: Path) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return MISSING
    return f"{status.st_size}:{status.st_mtime_ns}"


def _try_embed(
    model: Model | Towers, sources: list[dict[str, Any]], on_error: str
) -> tuple[np.ndarray, dict[int, str]]:
    """(n, dim) embeddings, and why some of the rows are none: an item that is read again by itself says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `Index.add` warns once, about all of them
        vectors = model.embed(sources, on_error=on_error, show_progress=False)
    problems = {}
    for i in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
        problems[i] = f"{describe(*sources[i].values())}: its embedding is not finite; look at the model's weights"
        try:
            model.embed([sources[i]])
        except BadItem as error:
            problems[i] = str(error)
    return vectors, problems
