"""The command line. Only verbs that need torch import it, so that help answers at once."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import yaml

import unitx
from unitx.errors import UnitxError
from unitx.recipe import CHOICES, Recipe, no_recipe, shipped

USER_MISTAKE = 2  # exit status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 for a user's mistake."""
    warnings.formatwarning = lambda message, *_: f"unitx: {message}\n"  # no file and line of ours for the user
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        words, dotted = split_dotted(sys.argv[1:] if argv is None else argv)
        arguments, unknown = build_parser().parse_known_args(words)
        if unknown:
            raise UnitxError(_unknown(unknown[0], arguments.parser))
        if dotted and not arguments.fields:
            raise UnitxError(
                f"unitx {arguments.verb} takes no --{next(iter(dotted))}; see unitx {arguments.verb} --help"
            )
        arguments.given = _given(arguments) | dotted
        return arguments.run(arguments) or 0
    except UnitxError as error:
        print(f"unitx: error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except PermissionError as error:
        print(f"unitx: error: {error.filename}: {error.strerror}; name a place that is yours", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print("unitx: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe (head, say) has seen enough
        sys.stderr.close()
    return 0


def split_dotted(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Part the flags of nested fields (--model.depth 6, --tasks.NAME.weight=2) from the rest, which argparse reads."""
    words: list[str] = []
    dotted: dict[str, Any] = {}
    rest = iter(argv)
    for word in rest:
        if word == "--":  # what follows are items, whatever they look like
            return [*words, word, *rest], dotted
        match = re.fullmatch(r"--([\w-]+(?:\.[\w-]+)+)(?:=(.*))?", word, re.DOTALL)
        if not match:
            words.append(word)
            continue
        value = match[2] if match[2] is not None else next(rest, None)
        if value is None:
            raise UnitxError(f"{word} needs a value")
        dotted[match[1]] = _typed(match[1], value)
    return words, dotted


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    """What to say of an argument that a verb does not take."""
    flags = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", parser.format_help())))
    close = difflib.get_close_matches(word.partition("=")[0], flags, 1, 0.75) if word.startswith("-") else []
    hint = f"did you mean {close[0]}?" if close else f"see {parser.prog} --help"
    return f"{parser.prog} takes no {word}; {hint}"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all else here does."""

    def error(self, message: str) -> NoReturn:
        raise UnitxError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their flags."""
    parser = Parser(
        prog="unitx",
        description="One transformer, any modality: train, fine-tune and embed text, images, audio and video.",
    )
    parser.add_argument("--version", action="version", version=f"unitx {unitx.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_demo(verbs)
    recipes = _add(verbs, "recipes", _recipes, "list the recipes that come along, or print one")
    recipes.add_argument("name", nargs="?", help="of the recipe to print, as a start for one of your own")
    train = _add(verbs, "train", _train, "train a new model", fields=True)
    train.add_argument("recipe", nargs="?", help="a recipe's name, or a YAML file")
    train.add_argument("--resume", metavar="RUN", help="go on with a run from its last checkpoint")
    _add_recipe_flags(train)
    finetune = _add(verbs, "finetune", _finetune, "train a model further, on new tasks and modalities", fields=True)
    finetune.add_argument("model", help="a run, a model's folder, or a hub id")
    finetune.add_argument("recipe", help="a recipe's name, or a YAML file")
    _add_recipe_flags(finetune)
    _add_evaluate(verbs)
    _add_predict(verbs)
    _add_generate(verbs)
    _add_embed(verbs)
    _add_search(verbs)
    _add_convert(verbs)
    return parser


def _add(verbs: Any, name: str, run: Any, about: str, fields: bool = False) -> argparse.ArgumentParser:
    description = about[0].upper() + about[1:] + "."
    parser = verbs.add_parser(name, help=about, description=description, allow_abbrev=False)
    parser.set_defaults(run=run, fields=fields, parser=parser)
    return parser


def _add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of a recipe; nested ones are given with dots, see `split_dotted`."""
    parser.epilog = "Nested fields take dots: --model.depth 6, --tokenizers.image.patch 8, --tasks.NAME.weight 2."
    about = field_docs(Recipe)
    for field in fields(Recipe):
        if field.name in ("about", "tasks", "tokenizers", "model", "plugins"):
            continue
        flag = "--" + field.name.replace("_", "-")
        choices = [c for c in CHOICES.get(field.name, ()) if c]
        text = about.get(field.name, "").replace("%", "%%")
        parser.add_argument(flag, dest=f"field.{field.name}", choices=choices or None, help=text,
                            metavar=None if choices else field.name.upper(), default=argparse.SUPPRESS)  # fmt: skip
    parser.add_argument("--import", dest="field.plugins", action="append", metavar="FILE", default=argparse.SUPPRESS,
                        help="a Python file that registers a modality or a task")  # fmt: skip


def field_docs(cls: type) -> dict[str, str]:
    """Field → what the class's docstring says of it under "Attributes"."""
    found, name = {}, None
    for line in (cls.__doc__ or "").partition("Attributes:")[2].splitlines():
        if match := re.fullmatch(r" {8}(\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found


TEXT_FIELDS = {"data", "test", "reads", "label", "out", "freeze", "tracker", "plugins"}  # never numbers


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The recipe fields among the flags, with their values read as YAML reads them."""
    flags = {name.removeprefix("field."): v for name, v in vars(arguments).items() if name.startswith("field.")}
    return {name: _typed(name, value) for name, value in flags.items()}


def _typed(name: str, value: Any) -> Any:
    """What was written after a flag: text where the field holds text (and not fields, {…}), else as YAML reads it."""
    return value if name.split(".")[-1] in TEXT_FIELDS and not str(value).startswith("{") else _value(name, value)


def _value(name: str, text: str) -> Any:
    """A value as YAML reads it, and 1e-3 as a number too."""
    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text):
        return float(text)
    if re.fullmatch(r"\d+(:\d+)+", text):
        return text  # to YAML 1:30 is ninety, to nobody else
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UnitxError(f"--{name} {text}: {' '.join(str(error).split())}") from error


def _recipes(arguments: argparse.Namespace) -> None:
    if arguments.name:
        if arguments.name not in shipped():
            raise no_recipe(arguments.name)
        print((resources.files("unitx") / "recipes" / f"{arguments.name}.yaml").read_text("utf-8"), end="")
        return
    for name, about in shipped().items():
        print(f"{name:16} {about}")


def _train(arguments: argparse.Namespace) -> None:
    if not arguments.recipe and not arguments.resume:
        raise UnitxError("say which recipe to train, or --resume RUN; there are: " + ", ".join(shipped()))
    if arguments.resume and (arguments.recipe or arguments.given):
        raise UnitxError("--resume goes on with a run as it was begun, and takes no other argument")
    from unitx.training import resume, train

    run = resume(arguments.resume) if arguments.resume else train(arguments.recipe, **arguments.given)
    _print_run(run)


def _finetune(arguments: argparse.Namespace) -> None:
    if arguments.model in shipped() and Path(arguments.recipe).expanduser().is_dir():
        from unitx.model import shipped_models

        if arguments.model not in shipped_models():
            raise UnitxError(f"name the model first: unitx finetune {arguments.recipe} {arguments.model}")
    from unitx.training import finetune

    _print_run(finetune(arguments.model, arguments.recipe, **arguments.given))


def _print_run(run: Any) -> None:
    if os.environ.get("RANK", "0") != "0":  # of several processes one speaks
        return
    for name, value in run.metrics.items():
        print(f"{name:40} {value:.4f}")
    scored = [line["step"] for line in run.history if "held_out" in line]
    best = [line["step"] for line in run.history if line.get("held_out") == run.metrics]
    if best and len(scored) > 1:
        print(f"the best of {len(scored)} evaluations, at step {best[-1]} of {run.history[-1]['step']}")
    print(f"model and curves in {run.folder}")


def _add_demo(verbs: Any) -> None:
    parser = _add(verbs, "demo", _demo, "train one backbone on pictures, words and speech, and show what it learned")
    parser.add_argument("--out", default="runs/demo", help="the run's folder")
    parser.add_argument("--minutes", type=float, default=4.0, help="time to train")
    parser.add_argument("--seed", type=int, default=0)


def _demo(arguments: argparse.Namespace) -> None:
    from unitx.demo import demo

    demo(arguments.out, minutes=arguments.minutes, seed=arguments.seed)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run, a model's folder, or a hub id")
    parser.add_argument("--import", dest="plugins", action="append", default=[], metavar="FILE",
                        help="a Python file that registers a modality, a task or a family")  # fmt: skip


def _import(arguments: argparse.Namespace) -> None:
    from unitx.registry import import_plugin

    for plugin in arguments.plugins:
        import_plugin(plugin)


def _load(arguments: argparse.Namespace) -> Any:
    from unitx.model import Model

    _import(arguments)
    return Model.from_pretrained(arguments.model)


def _add_evaluate(verbs: Any) -> None:
    parser = _add(verbs, "evaluate", _evaluate, "score a model on data that it has not seen")
    _add_model(parser)
    parser.add_argument("--data", required=True, help="as for train")
    parser.add_argument("--task", help="which of the model's tasks")
    parser.add_argument("--reads", help="columns and what they are read as, where they are called otherwise")
    parser.add_argument("--label", help="the column that holds the answer, where it is called otherwise")
    parser.add_argument("--out", help="where the report goes; by default evaluation/ in the run's folder")


def _evaluate(arguments: argparse.Namespace) -> None:
    from unitx.data import parse_reads
    from unitx.report import evaluate

    reads = parse_reads(arguments.reads) if arguments.reads else None
    folder = arguments.out or (None if Path(arguments.model).expanduser().is_dir() else "runs/evaluation")
    _import(arguments)
    data = _typed("data", arguments.data)
    print(evaluate(arguments.model, data, arguments.task, reads=reads, label=arguments.label, folder=folder))


def _add_predict(verbs: Any) -> None:
    parser = _add(verbs, "predict", _predict, "a task's answers to items")
    _add_model(parser)
    parser.add_argument("items", nargs="*", help="files, or texts")
    parser.add_argument("--data", help="in their place a folder, or a table with the task's columns; writes CSV")
    parser.add_argument("--task", help="which of the model's tasks")
    parser.add_argument("--reads", help="columns of --data and what they are read as, where they are called otherwise")
    parser.add_argument("--top", type=int, help="answers to each item; by default one, of detect and tag all")
    about = "a picture of what was found (detect, tag); of several items a folder"
    parser.add_argument("--draw", metavar="FILE", help=about)
    about = "a cell that stands beside each item, such as question='what is it?'; may be repeated"
    parser.add_argument("--with", dest="cells", action="append", default=[], metavar="COLUMN=TEXT", help=about)


def _predict(arguments: argparse.Namespace) -> int | None:
    if bool(arguments.items) == bool(arguments.data):
        raise UnitxError("name files or texts, or a table with --data TABLE; see unitx predict --help")
    model = _load(arguments)
    from unitx.cli_predict import predict, predict_rows

    if arguments.data:
        arguments.data = _typed("data", arguments.data)
        predict_rows(model, arguments)
        return None
    _name_texts(arguments.items)
    return None if predict(model, arguments) else USER_MISTAKE


def _name_texts(items: Sequence[str]) -> None:
    """Say which items are taken for texts though they end as the names of pictures and sounds do."""
    from unitx.media import is_missing_file

    for item in items:
        if is_missing_file(item, spaces=True) and not is_missing_file(item):
            print(f"unitx: there is no file '{item}': it is taken for a text", file=sys.stderr)


def _add_generate(verbs: Any) -> None:
    about = "continue texts, or draw what a task writes for items (its likeliest texts: unitx predict --top N)"
    parser = _add(verbs, "generate", _generate, about)
    _add_model(parser)
    parser.add_argument("prompts", nargs="+", help='how the texts begin ("" for a new one), or files')
    parser.add_argument("--task", help="which of the model's tasks")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--stop", action="append", default=[], help="a string that ends the text")
    parser.add_argument("--seed", type=int)


def _generate(arguments: argparse.Namespace) -> None:
    names = ("max_tokens", "temperature", "top_k", "top_p", "stop", "seed")
    options = {name: getattr(arguments, name) for name in names}
    model = _load(arguments)
    task = arguments.task or model.only_task("generates")
    writes = model.head(task).writes
    for prompt, text in zip(arguments.prompts, model.generate(arguments.prompts, task, **options), strict=True):
        between = "\t" if writes or os.path.isfile(os.path.expanduser(prompt)) else ""
        print(f"{prompt}{between}{text}")


def _add_embed(verbs: Any) -> None:
    parser = _add(verbs, "embed", _embed, "embed files into a Parquet file that grows: only what is new or changed")
    _add_model(parser)
    parser.add_argument("items", nargs="+", help="folders, files, or texts")
    parser.add_argument("-o", "--out", required=True, metavar="FILE.parquet")
    parser.add_argument("--modality", help="what every item is, where it should not be told from the item")


def _embed(arguments: argparse.Namespace) -> None:
    from unitx.index import Index

    model, index = _load(arguments), Index(arguments.out)
    if arguments.modality is None:
        _name_texts(arguments.items)
    for item in arguments.items:
        if item.endswith(os.sep) and arguments.modality != "text" and not os.path.isdir(os.path.expanduser(item)):
            raise UnitxError(f"there is no folder {item}; if it is a text, add --modality text")
        exists = os.path.exists(os.path.expanduser(item))
        if not exists and arguments.modality is None:
            _check_text(item)
        added = index.add(model, item if exists else [item], arguments.modality)
        print(f"{item}: {added.new} new, {added.changed} changed, {added.unchanged} as before, {added.skipped} skipped")
    print(f"{len(index)} embeddings in {arguments.out}")


def _check_text(item: str) -> None:
    """Whether an item that is no file may be meant as a text.

    Raises:
        UnitxError: it is written as a path is, or nearly as something that is there.
    """
    from unitx.paths import near_path

    near = near_path(Path(os.path.expanduser(item)))
    if near or (os.sep in item and not any(character.isspace() for character in item)):
        hint = f"is {near} meant? I" if near else "i"
        raise UnitxError(f"there is no file or folder {item}; {hint}f it is a text, add --modality text")


def _add_convert(verbs: Any) -> None:
    parser = _add(verbs, "convert", _convert, "write a published model in unitx's own format")
    _add_model(parser)
    parser.add_argument("out", help="the folder to write")


def _convert(arguments: argparse.Namespace) -> None:
    from unitx.paths import check_writable

    out = Path(arguments.out).expanduser()
    check_writable(out, str(out))
    if (out / "config.json").exists() or (out / "adapter_config.json").exists():
        raise UnitxError(f"{out} already holds a model: name another folder")
    from unitx.lora import merge_lora
    from unitx.model import Model

    model = _load(arguments)
    if isinstance(model, Model) and not model.frozen:  # what is frozen passes the adapters by, and they stay apart
        merge_lora(model.backbone)
    model.save_pretrained(out)
    size, heads = sum(p.numel() for p in model.parameters()), ", ".join(model.tasks) or "none"
    print(f"{size / 1e6:.1f} M parameters, reads {', '.join(model.modalities)}, heads: {heads}")
    print(f"written to {out}")


def _add_search(verbs: Any) -> None:
    parser = _add(verbs, "search", _search, "the nearest items of a file of embeddings")
    _add_model(parser)
    parser.add_argument("index", metavar="FILE.parquet")
    parser.add_argument("query", help="a text, or a picture's or a recording's path")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--modality", help="what the query is, where it should not be told from it")


def _search(arguments: argparse.Namespace) -> None:
    from unitx.index import OTHERS, Index

    file = Path(arguments.index).expanduser()
    if not file.is_file() or file.suffix.lower() in OTHERS:
        there = file.exists()
        what = f"{arguments.index} is no file of embeddings" if there else f"there is no file {arguments.index}"
        index = f"{file.resolve().stem or 'all'}.parquet" if there else file.parent / f"{file.stem}.parquet"
        command = f"unitx embed MODEL {file if there else 'FOLDER'} -o {index}"
        raise UnitxError(f"{what}; make one with: {command}")
    if arguments.modality is None:
        _name_texts([arguments.query])
    for hit in Index(arguments.index).search(_load(arguments), arguments.query, arguments.top, arguments.modality):
        print(f"{hit.score:.3f}  {hit.item}")
