"""Folders of sentence-transformers (Reimers and Gurevych 2019): a published model with pooling, length and prompts.

They are no family of their own: modules.json stands beside the files of BERT, Qwen3 or another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unitx.families.common import embedding
from unitx.pooling import Pooling
from unitx.published import Blueprint, Folder

POOLINGS = {"mean": "mean", "cls": "first", "lasttoken": "last"}
SETTINGS = ("prompts", "default_prompt_name", "similarity_fn_name")  # of config_sentence_transformers.json
LEGACY = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "lasttoken"}  # behind "pooling_mode_"


def with_modules(folder: Folder, plan: Blueprint) -> Blueprint:
    """The plan with the embedding head that modules.json asks for; as it is where there is none.

    Raises:
        ValueError: a module or a pooling that is not supported.
    """
    modules = folder.read_json("modules.json")
    if modules is None:
        return plan
    kinds = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(f"modules.json has a module '{kind}'; supported are Transformer, Pooling and Normalize")
    if "Pooling" not in kinds:
        raise ValueError("modules.json has no module 'Pooling', which says how a text becomes one vector")
    pooling = _pooling(folder.read_json(f"{kinds['Pooling']}/config.json"), kinds["Pooling"])
    options: dict[str, Any] = {"normalize": "Normalize" in kinds}
    settings = folder.read_json("config_sentence_transformers.json") or {}
    options |= {name: settings[name] for name in SETTINGS if settings.get(name)}
    text: Any = plan.processors["text"]
    lengths = folder.read_json("sentence_bert_config.json") or {}
    if lengths.get("do_lower_case") and b'"lowercase":true' not in text.json.replace(b" ", b""):
        raise ValueError("sentence_bert_config.json asks for lower case, and tokenizer.json keeps it: not supported")
    # Newer versions leave the length to the tokenizer.
    of_tokenizer = (folder.read_json("tokenizer_config.json") or {}).get("model_max_length")
    length = int(lengths.get("max_seq_length") or of_tokenizer or text.max_tokens)
    others = [task for task in plan.tasks if task.kind != "pool"]
    return replace(
        plan,
        processors={**plan.processors, "text": replace(text, max_tokens=min(length, text.max_tokens), truncate=True)},
        tasks=[*others, embedding("text", Pooling(pooling), **options)],
        ignored=rf"{plan.ignored}|^pooler\.",
    )


def _pooling(config: dict[str, Any] | None, path: str) -> str:
    if config is None:
        raise ValueError(f"modules.json names {path}, which has no config.json: copy the whole folder")
    mode = config.get("pooling_mode")
    if mode is None:
        found = [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
        names = [name.removeprefix("pooling_mode_") for name in found]
        mode = LEGACY.get(names[0], names[0]) if len(names) == 1 else " + ".join(names) or "none"
    if not isinstance(mode, str) or mode not in POOLINGS:
        raise ValueError(f"the pooling {mode!r} is not supported; supported are {', '.join(POOLINGS)}")
    if not config.get("include_prompt", True):
        raise ValueError("a pooling that leaves the prompt out is not supported")
    return POOLINGS[mode]
