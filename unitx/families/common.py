"""What families share: their names for activations, a text's processor, rotary halves."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from typing import Any

import torch
from torch import Tensor

from unitx.config import BackboneConfig
from unitx.pooling import Pooling
from unitx.published import Change, Folder, Table
from unitx.task import TaskInfo
from unitx.tokenizers.text import TextProcessor

# Of most models of base size; transformers leaves out of nested configurations what is as its class has it.
SHAPE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
# Parts of tokenizer.json that some classes, by how their names begin, make anew by fields of tokenizer_config.json.
REBUILT = (
    ("normalizer", "BertNormalizer", ("Bert", "DistilBert"), {
        "do_lower_case": "lowercase", "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }),
    ("pre_tokenizer", "ByteLevel", ("Roberta", "GPT2"), {"add_prefix_space": "add_prefix_space"}),
)  # fmt: skip
Part = tuple[Table, dict[str, Change]]
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


def activation(name: str) -> str:
    """Our name of one of their activations.

    Raises:
        ValueError: it is not known.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"the activation '{name}' is not known; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def unchanged_in(file: str, config: dict[str, Any], **expected: Any) -> None:
    """`unchanged`, of another file of the folder."""
    try:
        unchanged(config, **expected)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def unchanged(config: dict[str, Any], **expected: Any) -> None:
    """Raise ValueError where a field of the configuration asks for what is not supported."""
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise ValueError(f"{name} is {config[name]!r}; supported is {value!r}")


def preprocessor(folder: Folder, part: str) -> dict[str, Any]:
    """What the folder's preprocessor_config.json says, or the part of its processor_config.json; empty without both."""
    found = folder.read_json("preprocessor_config.json")
    return found or (folder.read_json("processor_config.json") or {}).get(part) or {}


def pre_norm(config: dict[str, Any], eps: float, act: str = "gelu", **given: Any) -> BackboneConfig:
    """The backbone of a vision transformer (Dosovitskiy et al. 2020): pre-norm, biases, no rotary.

    Args:
        eps, act: where the configuration does not say.
        given: fields that are others.
    """
    dim = config["hidden_size"]
    given = {
        "mlp_ratio": config["intermediate_size"] / dim, "qkv_bias": config.get("qkv_bias", True),
        "activation": activation(config.get("hidden_act", act)), **given,
    }  # fmt: skip
    return BackboneConfig(
        dim, config["num_hidden_layers"], config["num_attention_heads"], rotary_base=None, norm_bias=True,
        norm_eps=config.get("layer_norm_eps", eps), qk_norm=False, out_bias=True, **given,
    )  # fmt: skip


def text_processor(folder: Folder, vocab_size: int, max_tokens: int, **options: Any) -> TextProcessor:
    """The processor of the folder's tokenizer.json; without one the model takes ready ids only.

    Args:
        options: other fields of `TextProcessor`.
    """
    json = _as_configured(folder)
    if not json:
        return TextProcessor(max_tokens, vocabulary="ids", ids=vocab_size, **options)
    text = TextProcessor(max_tokens, vocabulary="huggingface", json=json, ids=vocab_size, **options)
    text.vocab.encode("")  # a broken file is found now
    return text


def _as_configured(folder: Folder) -> bytes:
    """tokenizer.json, with what tokenizer_config.json says otherwise: transformers follows that.

    Raises:
        ValueError: it has tokens that tokenizer.json lacks.
    """
    json = folder.read_bytes("tokenizer.json")
    settings = folder.read_json("tokenizer_config.json") or {}
    if not json or not settings:
        return json
    found = folder.read_json("tokenizer.json")
    added = [token["content"] for token in (settings.get("added_tokens_decoder") or {}).values()]
    added += folder.read_json("added_tokens.json") or {}
    known = {token["content"] for token in found.get("added_tokens") or []}
    known |= {piece if isinstance(piece, str) else piece[0] for piece in found["model"].get("vocab", ())}
    if lacking := sorted({*added} - known):
        raise ValueError(
            f"tokenizer.json lacks tokens that are added elsewhere, {lacking[:3]}: save it again with "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    changed = False
    for part, kind, classes, fields in REBUILT:
        place = found.get(part) or {}
        if place.get("type") == kind and (settings.get("tokenizer_class") or "").startswith(classes):
            wanted = {ours: settings[theirs] for theirs, ours in fields.items() if theirs in settings}
            changed |= place != place | wanted
            place |= wanted
    return dumps(found, ensure_ascii=False).encode() if changed else json


def ends(folder: Folder) -> tuple[int, ...]:
    """The ids that end a generated text: generation_config.json may name more of them than config.json."""
    found = (folder.read_json("generation_config.json") or {}).get("eos_token_id", folder.config.get("eos_token_id"))
    return () if found is None else tuple(found) if isinstance(found, list) else (found,)


def sees_only_before(config: dict[str, Any]) -> bool:
    """Whether a decoder is one; `is_causal: false` makes an encoder of it, as in embedding models made of decoders."""
    return bool(config.get("is_causal", True))


def language_model(folder: Folder, theirs: str, tied: str, ties: bool) -> tuple[list[TaskInfo], Table]:
    """The task that says what comes next, and where its weights are; no task for a bare backbone without them.

    Args:
        theirs, tied: the module of the head, and the table of token vectors that it may share.
        ties: whether it does where the configuration does not say.
    """
    held = f"{theirs}.weight" in folder.names
    ties = bool(folder.config.get("tie_word_embeddings", ties))
    if not (held or ties) or not sees_only_before(folder.config):
        return [], {}
    if held and ties:  # what they share may be stored under either name
        folder.names.setdefault(f"{tied}.weight", folder.names[f"{theirs}.weight"])
        # A head of its own counts, whatever the configuration says.
        ties = torch.equal(*folder.tensors([f"{theirs}.weight", f"{tied}.weight"]))
    # Called as in the recipe `language-model`, which so goes on with it.
    task = TaskInfo("language-model", "next_token", {"text": "text"}, options={"tied": ties})
    return [task], {"heads.language-model.head": tied if ties else theirs}


# Heads that answer for each token or each choice, with tensors of the same names.
OTHER_HEADS = ("ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering")


def classifier(
    folder: Folder, modality: str, theirs: str | tuple[str, ...], pooling: Pooling, *steps: str
) -> tuple[list[TaskInfo], Table]:
    """The task that says which of the configuration's labels holds, or what the numbers are where its problem is
    "regression", and where its weights are; none without them.

    Args:
        theirs: the linear map, without its prefix; or several, of tokens that `pooling` puts side by side.
        steps: their modules for the steps of `pooling`, "" for one without weights.
    """
    first = theirs if isinstance(theirs, str) else theirs[0]
    kinds = folder.config.get("architectures") or []
    if f"{first}.weight" not in folder.names or any(kind.endswith(OTHER_HEADS) for kind in kinds):
        return [], {}
    count = folder.shape(f"{first}.weight")[0]
    listed = folder.config.get("label_names") or (folder.config.get("pretrained_cfg") or {}).get("label_names") or []
    names = folder.config.get("id2label") or {str(i): name for i, name in enumerate(listed)}
    labels = [str(names.get(str(i), f"LABEL_{i}")) for i in range(count)]
    if len(set(labels)) < count:
        labels = [f"{label} ({i})" for i, label in enumerate(labels)]
    problem = folder.config.get("problem_type")
    options: dict[str, Any] = {"pooling": asdict(pooling)}
    kind, facts = "classify", {}
    if problem == "regression":
        kind, labels, facts = "regress", [], {"mean": [0.0] * count, "std": [1.0] * count}
    elif problem == "multi_label_classification" or count == 1:  # one label alone is a yes or no (rerankers)
        options["multi_label"] = True
    info = TaskInfo(f"{modality}-{kind}", kind, {modality: modality}, "label", labels, options=options, facts=facts)
    parts = {f"heads.{info.name}.pooler.steps.{i}": step for i, step in enumerate(steps) if step}
    return [info], {f"heads.{info.name}.head": theirs, **parts}


def sequence_classifier(folder: Folder) -> tuple[list[TaskInfo], Part]:
    """The same of a decoder: on the last token that is no padding, without a bias."""
    tasks, head = classifier(folder, "text", "score", Pooling("last", skip=folder.config.get("pad_token_id")))
    if not tasks:
        return [], ({}, {})
    return tasks, merged((head, {}), zero_bias(f"heads.{tasks[0].name}.head", folder.shape("score.weight")[0]))


def zero_bias(ours: str, size: int) -> Part:
    """A bias of zeros for a map or a norm that has none in the original."""
    return {f"{ours}.bias": ()}, {f"{ours}.bias": lambda leaf, tensors: torch.zeros(size)}


def embedding(modality: str, pooling: Pooling, **options: Any) -> TaskInfo:
    """The head that embeds; `options` are others of `pool`."""
    options = {"pooling": asdict(pooling), **options}
    return TaskInfo("pooled", "pool", {modality: modality}, options=options, facts={"own": [modality]})


def averaged(ours: str) -> dict[str, Change]:
    """Two linear maps whose answers are averaged, as one map of both inputs side by side."""

    def change(leaf: str, tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors, dim=1) / len(tensors) if leaf == "weight" else torch.stack(tensors).mean(0)

    return {ours: change}


def merged(*parts: Part) -> Part:
    """Tables and changes as one; of what several name, the last counts."""
    table: Table = {}
    change: dict[str, Change] = {}
    for names, changes in parts:
        table |= names
        change |= changes
    return table, change


def keys_without_bias(leaf: str, tensors: list[Tensor]) -> Tensor:
    """Biases of queries and values, joined with zeros for keys, which have none."""
    q, v = tensors
    return torch.cat([q, torch.zeros_like(q), v])


def interleaved(value: Tensor, head_dim: int) -> Tensor:
    """Rows of heads whose rotary pairs are (i, i + d/2), with the pairs side by side, as our `rotate` turns them."""
    halves = value.unflatten(0, (-1, 2, head_dim // 2))
    return halves.transpose(1, 2).reshape(value.shape)


def rotary_qkv(head_dim: int) -> Change:
    """Queries, keys and values joined; the first two for our order of rotary pairs."""

    def change(leaf: str, tensors: list[Tensor]) -> Tensor:
        q, k, v = tensors
        return torch.cat([interleaved(q, head_dim), interleaved(k, head_dim), v])

    return change


def head_norm(head_dim: int) -> Change:
    """The norm of queries or keys, likewise."""
    return lambda leaf, tensors: interleaved(tensors[0], head_dim)
