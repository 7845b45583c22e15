"""Folders of sentence-transformers (Reimers and Gurevych 2019): a published model with pooling, length and prompts.

They are no family of their own: modules.json stands beside the files of BERT, Qwen3 or another.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from unitx.families.common import embedding, unchanged_in
from unitx.pooling import Pooling
from unitx.published import Blueprint, Folder, Table

POOLINGS = {
    "mean": "mean", "cls": "first", "lasttoken": "last", "max": "max", "weightedmean": "weighted mean",
    "mean_sqrt_len_tokens": "scaled sum",
}  # fmt: skip
MODULES = ("Transformer", "Pooling", "Dense", "Normalize")  # in this order
# Of config_sentence_transformers.json.
SETTINGS = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
DENSE_ACTIVATIONS = {"Tanh": ("tanh",), "Identity": (), "GELU": ("gelu",), "ReLU": ("relu",), "SiLU": ("silu",)}
# Behind "pooling_mode_".
LEGACY = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max", "weightedmean_tokens": "weightedmean"}


def with_modules(folder: Folder, plan: Blueprint) -> Blueprint:
    """The plan with the embedding head that modules.json asks for; as it is where there is none.

    Raises:
        ValueError: a module or a pooling that is not supported.
    """
    modules = folder.read_json("modules.json")
    if modules is None:
        return plan
    kinds = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    for kind, path in kinds.items():
        if kind not in MODULES:
            raise ValueError(f"modules.json has a module '{kind}'; supported are {', '.join(MODULES)}")
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ValueError(f"modules.json names {path}, which lies outside the folder")
    if "Pooling" not in kinds:
        raise ValueError("modules.json has no module 'Pooling', which says how a text becomes one vector")
    if [*kinds] != [kind for kind in MODULES if kind in kinds] or len(kinds) < len(modules):
        raise ValueError(f"modules.json has another order of modules than {', '.join(MODULES)}: not supported")
    pooling = _pooling(folder, kinds["Pooling"])
    table: Table = {}
    if "Dense" in kinds:
        pooling, table = _dense(folder, kinds["Dense"], pooling), {"heads.pooled.pooler.steps.0": "linear"}
    options: dict[str, Any] = {"normalize": "Normalize" in kinds}
    settings = folder.read_json("config_sentence_transformers.json") or {}
    options |= {name: settings[name] for name in SETTINGS if settings.get(name)}
    text: Any = plan.processors["text"]
    lengths = folder.read_json("sentence_bert_config.json") or {}
    lowers = re.search(rb'"lowercase":true|"type":"Lowercase"', text.json.replace(b" ", b""))
    if lengths.get("do_lower_case") and not lowers:
        raise ValueError("sentence_bert_config.json asks for lower case, and tokenizer.json keeps it: not supported")
    of_tokenizer = folder.read_json("tokenizer_config.json") or {}
    unchanged_in("tokenizer_config.json", of_tokenizer, truncation_side="right")
    # Newer versions leave the length to the tokenizer.
    length = int(lengths.get("max_seq_length") or of_tokenizer.get("model_max_length") or text.max_tokens)
    others = [task for task in plan.tasks if task.kind != "pool"]
    return replace(
        plan,
        processors={**plan.processors, "text": replace(text, max_tokens=min(length, text.max_tokens), truncate=True)},
        tasks=[*others, embedding("text", pooling, **options)],
        table=plan.table | table,
        ignored=rf"{plan.ignored}|^pooler\.",
    )


def _config(folder: Folder, path: str) -> dict[str, Any]:
    config = folder.read_json(f"{path}/config.json")
    if config is None:
        raise ValueError(f"modules.json names {path}, which has no config.json: copy the whole folder")
    return config


def _pooling(folder: Folder, path: str) -> Pooling:
    config = _config(folder, path)
    mode = config.get("pooling_mode")
    if mode is None:
        found = [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
        names = [name.removeprefix("pooling_mode_") for name in found]
        mode = LEGACY.get(names[0], names[0]) if len(names) == 1 else " + ".join(names) or "none"
    if isinstance(mode, list) and len(mode) == 1:
        (mode,) = mode
    if not isinstance(mode, str) or mode not in POOLINGS:
        raise ValueError(
            f"{path}/config.json: the pooling {mode!r} is not supported; supported are {', '.join(POOLINGS)}"
        )
    if not config.get("include_prompt", True):
        raise ValueError(f"{path}/config.json: a pooling that leaves the prompt out is not supported")
    return Pooling(POOLINGS[mode])


def _dense(folder: Folder, path: str, pooling: Pooling) -> Pooling:
    """The pooling with the linear map behind it, whose tensors stand in a folder of their own."""
    config = _config(folder, path)
    unchanged_in(f"{path}/config.json", config, module_input_name="sentence_embedding", use_residual=False,
                 module_output_name="sentence_embedding")  # fmt: skip
    folder.add(path)
    named = config.get("activation_function", "Tanh").rpartition(".")[2]
    if named not in DENSE_ACTIVATIONS:
        known = ", ".join(DENSE_ACTIVATIONS)
        raise ValueError(f"{path}/config.json: activation_function is {named}; supported are {known}")
    bias = config.get("bias", True)
    return replace(pooling, steps=("dense", *DENSE_ACTIVATIONS[named]), width=config["out_features"], bias=bias)
