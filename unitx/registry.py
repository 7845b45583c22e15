"""Names for tokenizers and tasks, so that a model's folder records names and never code.

The modules that ship are imported when their name is asked for; a user's own file is imported by `import_plugin`
(the flag `--import`), and an installed package may offer one through the entry point group of the registry.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from unitx.errors import UnitxError

if TYPE_CHECKING:
    from unitx.task import Task
    from unitx.tokenizer import Tokenizer

PLUGIN = "unitx_plugin_"  # begins the names of modules that were imported by their files
Kind = TypeVar("Kind")  # what all classes of a registry are kinds of


class Registry(Generic[Kind]):
    """A table from names to classes, filled by a decorator."""

    def __init__(self, what: str, package: str):
        self.what = what
        self.package = package
        self._classes: dict[str, type[Kind]] = {}

    def register(self, name: str) -> Callable[[type[Kind]], type[Kind]]:
        """Decorator that records a class under `name`.

        Raises:
            UnitxError: the name is taken by another class; the files of both are named.
        """

        def decorate(cls: type[Kind]) -> type[Kind]:
            taken = self._classes.get(name) or (self._load_shipped(name) if not self._is_own(cls) else None)
            if taken is not None and (_file(taken), taken.__qualname__) != (_file(cls), cls.__qualname__):
                raise UnitxError(
                    f"the {self.what} name '{name}' is registered twice: by {_file(taken)} and by {_file(cls)}; "
                    "give yours another name"
                )
            self._classes[name] = cls
            return cls

        return decorate

    def get(self, name: str, file: str | None = None) -> type[Kind]:
        """The class registered as `name`; `file` is the file or module that a saved model says it came from.

        Raises:
            UnitxError: nobody registered the name; says which names there are or which file to import.
        """
        found = self._classes.get(name) or self._load(name)
        if found is None:
            if file:
                raise UnitxError(
                    f"the {self.what} '{name}' lives in {file}, which was not imported: "
                    f"pass --import {file}, or call unitx.import_plugin({file!r}) first"
                )
            raise UnitxError(f"there is no {self.what} called '{name}'; there are: {', '.join(self.names())}")
        return found

    def names(self) -> list[str]:
        """All names known so far: those that ship, those of installed packages and those of imported plugins."""
        shipped = {module.name for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__)}
        installed = {point.name for point in importlib.metadata.entry_points(group=self.package)}
        return sorted(shipped | installed | set(self._classes))

    def file_of(self, name: str) -> str | None:
        """The file, or the module, to import before `name` is known; None for what ships with unitx."""
        cls = self.get(name)
        if self._is_own(cls):
            return None
        by_file = cls.__module__ == "__main__" or cls.__module__.startswith(PLUGIN)
        return Path(_file(cls)).name if by_file else cls.__module__

    def _is_own(self, cls: type) -> bool:
        return cls.__module__.startswith(self.package + ".")

    def _load(self, name: str) -> type[Kind] | None:
        self._load_shipped(name)
        for point in importlib.metadata.entry_points(group=self.package, name=name):
            if name not in self._classes:
                with _one_line(f"the {self.what} '{name}' of an installed package ({point.value})"):
                    point.load()
        return self._classes.get(name)

    def _load_shipped(self, name: str) -> type[Kind] | None:
        module = f"{self.package}.{name}"
        if name.isidentifier() and importlib.util.find_spec(module):
            importlib.import_module(module)
        return self._classes.get(name)


class FamilyRegistry(Registry[Any]):
    """Families of published models, by their `model_type`: a file may register several, so all are imported."""

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorator that records a function from a `Folder` to a `Blueprint` under `name`."""
        return super().register(name)

    def names(self) -> list[str]:
        importlib.import_module(self.package)
        installed = {point.name for point in importlib.metadata.entry_points(group=self.package)}
        return sorted(installed | set(self._classes))

    def _load_shipped(self, name: str) -> Any:
        importlib.import_module(self.package)
        return self._classes.get(name)


def _file(cls: type) -> str:
    try:
        return inspect.getfile(cls)
    except (OSError, TypeError):
        return f"<{cls.__module__}>"


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Somebody else's file may fail in any way: turn that into one line that names it."""
    try:
        yield
    except UnitxError:
        raise
    except Exception as error:
        raise UnitxError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}") from error


TOKENIZERS: Registry[Tokenizer] = Registry("modality", "unitx.tokenizers")
TASKS: Registry[Task] = Registry("task", "unitx.tasks")
FAMILIES = FamilyRegistry("family", "unitx.families")

register_tokenizer = TOKENIZERS.register
register_task = TASKS.register
register_family = FAMILIES.register


def import_plugin(path: str | Path) -> None:
    """Import a user's own Python file (or an importable module name), once, so that what it registers is known.

    Raises:
        UnitxError: the file is missing, or fails when imported.
    """
    path = str(path)
    if not path.endswith(".py"):
        with _one_line(f"--import {path} (name a .py file or an installed module)"):
            importlib.import_module(path)
        return
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise UnitxError(f"--import {path}: there is no such file")
    # Two files of the same name in different folders are two modules; the same file is imported once.
    name = f"{PLUGIN}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        with _one_line(f"--import {path}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
