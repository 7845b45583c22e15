"""What pip installs is the whole of the source tree, whatever the checkout or the sdist made of the two links."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKS = {"tokenizers": "unitx/tokenizers", "tasks": "unitx/tasks"}
HELP = """
import sys
from unitx.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
"""


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """The output of a command in a process of its own; `path` comes before the checkout that the tests run in."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(code: str, cwd: Path, path: Path | None = None) -> str:
    return run(sys.executable, "-c", code, cwd=cwd, path=path)


def keep(checkout: Path) -> None:
    """The links as git on Linux and macOS makes them."""


def drop(checkout: Path) -> None:
    """A zip unpacked by a tool that leaves links out."""
    for link in LINKS.values():
        (checkout / link).unlink()


def flatten(checkout: Path) -> None:
    """Git for Windows: a link is a text file that holds where it leads."""
    for folder, link in LINKS.items():
        (checkout / link).unlink()
        (checkout / link).write_text(f"../{folder}")


def copy_checkout(to: Path) -> Path:
    """The working tree as a commit of it would be: tracked and new files, none that git ignores."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    return to


def expected_files(checkout: Path) -> set[str]:
    """Every file of the three folders, under the name that it is imported or opened by."""
    found = set()
    for folder in ("unitx", *LINKS):
        for file in (checkout / folder).rglob("*"):
            inside = file.relative_to(checkout).as_posix()
            if file.is_file() and not any(inside == link or inside.startswith(link + "/") for link in LINKS.values()):
                found.add(inside if folder == "unitx" else f"unitx/{inside}")
    return found


def build(checkout: Path, *options: str) -> Path:
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", checkout / "dist", *options, checkout)
    run(*command, cwd=checkout)
    (wheel,) = (checkout / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("packaging") / "checkout")


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    """By way of the sdist, as `python -m build` does and as pip does for a package that has only an sdist."""
    return build(checkout)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what pip installs from the wheel; what it depends on comes from the running Python."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", folder)
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=folder)
    return folder


def assert_complete(wheel: Path, checkout: Path) -> None:
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    assert len(names) == len(set(names)), "a file stands in the wheel twice"
    assert set(names) == expected_files(checkout)


def checksums(wheel: Path) -> dict[str, int]:
    return {file.filename: file.CRC for file in zipfile.ZipFile(wheel).infolist()}


def test_the_wheel_made_from_the_sdist_holds_every_file(wheel: Path, checkout: Path) -> None:
    assert_complete(wheel, checkout)
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"unitx/__init__.py", "unitx/py.typed", "unitx/tokenizers/text.py", "unitx/tasks/classify.py"} <= names
    recipes = {f"unitx/recipes/{file.name}" for file in (ROOT / "unitx" / "recipes").glob("*.yaml")}
    assert recipes and recipes <= names


@pytest.mark.parametrize("change, options", [(keep, ["--wheel"]), (drop, []), (drop, ["--wheel"]), (flatten, [])])
def test_links_or_none_the_wheel_is_the_same(
    change: Callable[[Path], None], options: list[str], checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns("dist"))
    change(copy)
    other = build(copy, *options)
    assert_complete(other, checkout)
    assert checksums(other) == checksums(wheel)


def test_the_distribution_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (info,) = {n.split("/")[0] for n in archive.namelist() if ".dist-info/" in n}
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "\nName: unitx-toolkit\n" in metadata and "\nLicense-Expression: Apache-2.0\n" in metadata
    assert {"demo", "test"} <= {w.removeprefix("Provides-Extra: ") for w in metadata.splitlines()}
    assert "unitx = unitx.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in archive.namelist()


def test_the_installed_package_imports_all_of_its_parts(installed: Path, tmp_path: Path) -> None:
    code = (
        "import unitx, unitx.tokenizers.text, unitx.tasks.classify\n"
        "print(unitx.__file__, unitx.tokenizers.text.__file__, unitx.tasks.classify.__file__, sep='\\n')\n"
        "from unitx.registry import TASKS, TOKENIZERS\n"
        "print(*TOKENIZERS.names()); print(*TASKS.names())"
    )
    *files, tokenizers, tasks = python(code, tmp_path, installed).splitlines()
    assert len(files) == 3 and all(Path(f).is_relative_to(installed) for f in files)
    assert tokenizers.split() == sorted(f.stem for f in (ROOT / "tokenizers").glob("*.py"))
    assert tasks.split() == sorted(f.stem for f in (ROOT / "tasks").glob("*.py"))


def test_the_installed_command_shows_its_help(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "bin" / "unitx", "--help", cwd=tmp_path, path=installed)
    for verb in ("demo", "recipes", "train", "finetune", "evaluate", "predict", "generate", "embed", "search"):
        assert verb in shown
    assert run(sys.executable, "-m", "unitx", "--help", cwd=tmp_path, path=installed) == shown
    code = HELP + "import unitx, os\nassert os.path.dirname(unitx.__file__) == os.path.join(sys.argv[1], 'unitx')"
    run(sys.executable, "-c", code, installed, cwd=tmp_path, path=installed)


def test_help_and_the_package_itself_do_not_import_torch(tmp_path: Path) -> None:
    assert python("import sys, unitx; print('torch' in sys.modules)", tmp_path) == "False\n"
    assert python(HELP + "print('torch' in sys.modules)", tmp_path).endswith("False\n")


def test_every_name_that_the_package_offers_is_there(tmp_path: Path) -> None:
    code = "import unitx; assert all(callable(getattr(unitx, name)) for name in unitx.__all__); print(*unitx.__all__)"
    assert {"Model", "Index", "train", "finetune", "evaluate"} <= set(python(code, tmp_path, ROOT).split())


def test_from_the_repository_root_tokenizers_is_hugging_faces() -> None:
    code = (
        "import sys, tokenizers; assert sys.path[0] == ''; print(tokenizers.__file__, tokenizers.Tokenizer.__module__)"
        "\nimport unitx.tokenizers.text, transformers; print(transformers.utils.is_tokenizers_available())"
    )
    first, second = python(code, ROOT).splitlines()
    assert "site-packages" in first and not first.startswith(str(ROOT / "tokenizers"))
    assert second == "True"
    assert not (ROOT / "tokenizers" / "__init__.py").exists() and not (ROOT / "tasks" / "__init__.py").exists()


def test_the_links_are_committed_as_relative_links() -> None:
    for folder, link in LINKS.items():
        assert run("git", "ls-files", "--stage", link, cwd=ROOT).startswith("120000 ")
        assert os.readlink(ROOT / link) == f"../{folder}"


def test_every_package_that_is_imported_is_declared(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    known = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {re.split(r"[\[<>=~! ]", one)[0].lower().replace("_", "-") for one in known}
    owners = packages_distributions()
    for file in chain(*((checkout / folder).rglob("*.py") for folder in ("unitx", "tokenizers", "tasks", "tests"))):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
        for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"unitx"}:
            if not (file.parent / f"{name}.py").is_file():
                assert {owner.lower().replace("_", "-") for owner in owners[name]} & declared, (file, name)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_there(checkout: Path, target: str) -> None:
    said = subprocess.run(["make", "-n", target], cwd=checkout, capture_output=True, text=True)
    assert said.returncode == 0 and ("unitx demo" if target == "demo" else "pytest") in said.stdout
