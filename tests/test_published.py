"""Folders of published models: what is read, what is refused, and that texts become the originals' ids."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from published_models import CORPUS, IMAGES, LLAMA, TEXTS, byte_level, drawn, small_bert, unigram, wordpiece
from safetensors.torch import load_file, save_file

import tokenizers as fast
import unitx
from unitx import cli
from unitx.batches import Evaluation, Feed, Preparer
from unitx.data import open_source
from unitx.errors import BadItem, UnitxError
from unitx.identity import model_identity
from unitx.model import Model
from unitx.registry import FAMILIES, import_plugin
from unitx.task import TaskInfo
from unitx.tokens import Batch


@pytest.mark.parametrize("make", [wordpiece, byte_level, unigram])
def test_texts_become_the_originals_ids(make: Callable[[], hf.PreTrainedTokenizerFast], tmp_path: Path) -> None:
    original = make()
    small_bert(tmp_path)
    original.save_pretrained(tmp_path)
    text = Model.from_pretrained(tmp_path, "cpu").processors["text"]
    for one in TEXTS:
        ids = text.features(one)
        assert ids.tolist() == original(one)["input_ids"]
        assert text.decode(ids) == original.decode(ids, skip_special_tokens=True)
        if make is byte_level:  # whose bits per byte can be counted exactly
            assert text.byte_length(ids) == len(one.encode())


def test_texts_are_embedded_as_by_the_original(tmp_path: Path) -> None:
    model, tokenizer = small_bert(tmp_path), wordpiece()
    tokenizer.save_pretrained(tmp_path)
    texts = [text for text in TEXTS if len(tokenizer(text)["input_ids"]) <= 60]
    assert len(texts) > 10
    ours = Model.from_pretrained(tmp_path, "cpu").embed(texts, "text", normalize=False)
    with torch.no_grad():
        theirs = model(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output  # padded, as people do
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_each_window_of_a_long_text_has_a_begin_and_an_end(tmp_path: Path) -> None:
    small_bert(tmp_path)
    tokenizer = wordpiece()
    tokenizer.save_pretrained(tmp_path)
    text = Model.from_pretrained(tmp_path, "cpu").processors["text"]
    ids = text.features("word1 " * 100)
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    windows = [pieces.values.tolist() for pieces in text.windows(ids)]
    assert len(windows) > 1 and all(w[0] == begin and w[-1] == end and len(w) <= 60 for w in windows)
    assert [i for w in windows for i in w[1:-1]] == ids[1:-1].tolist()
    cut = text.cut(ids, np.random.default_rng(0))
    assert cut.shortened and len(cut) == 60 and cut.values[0] == begin and cut.values[-1] == end


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generated_texts_are_the_originals(family: str, tmp_path: Path) -> None:
    tokenizer = byte_level()
    shape = {"vocab_size": 400, "eos_token_id": 0, "bos_token_id": 0}
    if family == "gpt2":
        config = hf.GPT2Config(**shape, n_positions=60, n_embd=32, n_layer=2, n_head=2)
        model = drawn(hf.GPT2LMHeadModel, config)
    else:
        config = hf.LlamaConfig(**shape, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                num_key_value_heads=2, intermediate_size=48)  # fmt: skip
        model = drawn(hf.LlamaForCausalLM, config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompts = ["The quick brown", "日本", "word1 and number 37 and word2 and"]
    ours = Model.from_pretrained(tmp_path, "cpu").generate(prompts, temperature=0, max_tokens=12)
    for prompt, found in zip(prompts, ours, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        whole = model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=0)
        assert found == tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
    if family == "gpt2":
        with pytest.raises(UnitxError, match="has positions for 60 tokens, and the longest prompt has"):
            Model.from_pretrained(tmp_path, "cpu").generate(prompts, max_tokens=100)


@pytest.mark.parametrize("tune", ["all", "lora"])
def test_a_published_language_model_goes_on(tune: str, tmp_path: Path) -> None:
    shape = {"vocab_size": 400, "eos_token_id": 0, "bos_token_id": 0}
    config = hf.GPT2Config(**shape, n_positions=60, n_embd=32, n_layer=2, n_head=2)
    drawn(hf.GPT2LMHeadModel, config).save_pretrained(tmp_path / "base")
    byte_level().save_pretrained(tmp_path / "base")
    (tmp_path / "book.txt").write_text("\n".join(CORPUS * 9))
    before = Model.from_pretrained(tmp_path / "base", "cpu")
    scored = unitx.evaluate(before, tmp_path / "book.txt").scores["bits_per_byte"]
    given = {"data": str(tmp_path / "book.txt"), "tune": tune, "echo": False, "workers": 0, "precision": "fp32"}
    run = unitx.finetune(
        tmp_path / "base", "language-model", out=str(tmp_path / "run"), steps=30, evaluations=1, lr=3e-3, **given
    )
    assert run.metrics["language-model/bits_per_byte"] < 0.8 * scored
    for model in (run.model, Model.from_pretrained(run.folder, "cpu")):
        tied = model.head("language-model").head.weight is model.tokenizers["text"].embed.weight
        assert tied and model.generate(["The quick"], temperature=0, max_tokens=4)
    assert "heads.language-model.head.weight" not in load_file(run.folder / "model" / "model.safetensors")


@pytest.mark.parametrize("tune", ["all", "head", "norms", "lora"])
def test_a_published_encoder_learns_a_task_and_goes_on_from_a_checkpoint(tune: str, tmp_path: Path) -> None:
    small_bert(tmp_path / "base")
    wordpiece().save_pretrained(tmp_path / "base")
    rows = [{"text": f"word{i} and number {i}", "label": "even" if i % 2 else "odd"} for i in range(40)]
    given = {"data": rows, "tune": tune, "echo": False, "workers": 0, "precision": "fp32", "out": str(tmp_path / "run")}
    run = unitx.finetune(tmp_path / "base", "text-classify", steps=6, checkpoint_every=3, evaluations=1, **given)
    assert run.model.tasks == ["pooled", "text-classify"]
    before, after = (Model.from_pretrained(tmp_path / name, "cpu") for name in ("base", "run"))
    same = torch.equal(before.hidden_states(["word1"])[0], after.hidden_states(["word1"])[0])
    assert same == (tune == "head")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-6")
    again = unitx.resume(run.folder, echo=False, data=rows)
    assert again.metrics == run.metrics


def small_gpt2(folder: Path, **given: Any) -> hf.GPT2LMHeadModel:
    config = hf.GPT2Config(
        **{"vocab_size": 400, "n_positions": 60, "eos_token_id": 0, "bos_token_id": 0, **given},
        n_embd=32, n_layer=2, n_head=2,
    )  # fmt: skip
    model = drawn(hf.GPT2LMHeadModel, config)
    model.save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return model


def test_a_decoder_is_scored_as_it_predicts_and_its_table_trains(tmp_path: Path) -> None:
    small_gpt2(tmp_path / "base")
    rows = [{"text": f"word{i} and number {i}", "label": "even" if i % 2 else "odd"} for i in range(40)]
    given = {"data": rows, "echo": False, "workers": 0, "precision": "fp32", "holdout": 0.0}
    run = unitx.finetune(
        tmp_path / "base", "text-classify", steps=4, evaluations=1, out=str(tmp_path / "run"), tune="all", **given
    )
    model = run.model
    said = model.predict_proba([row["text"] for row in rows], "text-classify")
    numbers = {label: i for i, label in enumerate(model.labels("text-classify"))}
    right = [int(p.argmax()) == numbers[row["label"]] for p, row in zip(said, rows, strict=True)]
    assert unitx.evaluate(model, rows, "text-classify").scores["accuracy"] == pytest.approx(np.mean(right))
    info = model.head("text-classify").info
    prepared = Preparer(model.processors, model.prefix_parts)
    feed = Feed(info, open_source(rows, info.reads, "label"), 4)
    batch = Evaluation(prepared, feed)[0]
    assert isinstance(batch, Batch) and set(batch.layout.prefix) == {0}
    before = Model.from_pretrained(tmp_path / "base", "cpu").tokenizers["text"].embed.weight
    assert not torch.equal(before, model.tokenizers["text"].embed.weight)
    with pytest.raises(UnitxError, match="leaves nothing to train: the head shares its weights"):
        unitx.finetune(
            tmp_path / "base", "language-model", steps=1, out=str(tmp_path / "no"), tune="head", **given
        )


def test_every_end_ends_a_text(tmp_path: Path) -> None:
    model = small_gpt2(tmp_path)
    ids = byte_level()("The quick")["input_ids"]
    whole = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6, pad_token_id=0)[0].tolist()
    later = whole[len(ids) + 2]  # which would be said third
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [399, later]}))
    (said,) = Model.from_pretrained(tmp_path, "cpu").generate(["The quick"], temperature=0, max_tokens=6)
    first = whole[len(ids) :].index(later)
    assert said == byte_level().decode(whole[len(ids) : len(ids) + first])


def test_an_empty_text_without_begin_or_end_is_a_bad_item(tmp_path: Path) -> None:
    small_bert(tmp_path)
    byte_level().save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path, "cpu")
    with pytest.raises(BadItem, match="text '' is empty, and the model's vocabulary has no begin or end"):
        model.embed(["hello", ""], "text")
    with pytest.warns(UserWarning, match="1 of 3 items could not be read"):
        found = model.embed(["hello", "", "x"], "text", on_error="skip")
    assert np.isnan(found).any(1).tolist() == [False, True, False]


def test_added_tokens_are_text_unless_they_are_special(tmp_path: Path) -> None:
    small_bert(tmp_path, vocabulary=402)
    original = byte_level()
    original.add_tokens([fast.AddedToken("<think>", special=False), fast.AddedToken("<end>", special=True)])
    original.save_pretrained(tmp_path)
    text = Model.from_pretrained(tmp_path, "cpu").processors["text"]
    ids = text.features("<think>word1<end>")
    assert text.decode(ids) == original.decode(ids, skip_special_tokens=True) == "<think>word1"
    assert text.byte_length(ids) == len("<think>word1")


def test_a_token_that_the_model_has_no_vector_for_is_a_bad_item(tmp_path: Path) -> None:
    original = byte_level()
    original.add_tokens(["<pad>"])
    small_bert(tmp_path, vocabulary=len(original) - 1)
    original.save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path, "cpu")
    assert model.embed(["hello"], "text").shape == (1, 36)
    with pytest.raises(BadItem, match=r"has a token that is in tokenizer\.json and not among the model's"):
        model.embed(["hi <pad>"], "text")


def test_an_index_tells_poolings_apart(tmp_path: Path) -> None:
    small_bert(tmp_path)
    mean, first = (Model.from_pretrained(tmp_path, "cpu") for _ in range(2))
    for model, pooling in ((mean, "mean"), (first, "first")):
        model.add_task(TaskInfo("pooled", "pool", {"text": "text"}, options={"pooling": pooling}))
    assert model_identity(mean) != model_identity(first)


def test_the_originals_libraries_are_not_needed_to_load_and_answer(tmp_path: Path) -> None:
    small_bert(tmp_path / "texts")
    wordpiece().save_pretrained(tmp_path / "texts")
    make, config = IMAGES["vit"]
    drawn(make, config).save_pretrained(tmp_path / "pictures")
    code = (
        "import sys, numpy as np, unitx\n"
        "texts, pictures = (unitx.Model.from_pretrained(f'{sys.argv[1]}/{x}', 'cpu') for x in ('texts', 'pictures'))\n"
        "texts.embed(['a text'], 'text'), pictures.embed([np.zeros((32, 32, 3), np.uint8)])\n"
        "print({'transformers', 'timm', 'sentence_transformers', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


def test_sharded_weights_and_a_converted_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_bert(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert cli.main(["convert", str(tmp_path / "shards"), str(tmp_path / "ours")]) == 0
    assert "reads text, heads: pooled" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "shards")
    ids = [torch.tensor([5, 6, 7])]
    found = [Model.from_pretrained(tmp_path / name, "cpu").embed(ids) for name in ("whole", "ours")]
    assert np.array_equal(*found)
    assert cli.main(["convert", str(tmp_path / "whole"), str(tmp_path / "ours")]) == cli.USER_MISTAKE


def test_norms_of_old_checkpoints_are_called_gamma_and_beta(tmp_path: Path) -> None:
    small_bert(tmp_path)
    before = Model.from_pretrained(tmp_path, "cpu").embed([torch.tensor([5, 6])])
    file = tmp_path / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(file)
    for new, name in old.items():
        weights = {key.replace(new, name): value for key, value in weights.items()}
    weights["bert.embeddings.position_ids"] = torch.arange(60)[None]  # a buffer of old versions
    save_file(weights, file)
    assert np.array_equal(Model.from_pretrained(tmp_path, "cpu").embed([torch.tensor([5, 6])]), before)


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def without(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors")


def spoiled(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    if how == "family":
        edit(folder, model_type="mamba")
    elif how == "pickle":
        file.rename(folder / "pytorch_model.bin")
    elif how == "nothing":
        file.unlink()
    elif how == "missing":
        without(folder, "encoder.layer.1.output.dense.bias")
    elif how == "left over":
        save_file(weights | {"encoder.layer.1.gate.weight": torch.zeros(2)}, file)
    elif how == "other shape":
        edit(folder, intermediate_size=48)
    elif how == "other depth":
        edit(folder, num_hidden_layers=3)
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif how == "activation":
        edit(folder, hidden_act="mish")
    elif how == "no width":
        config = json.loads((folder / "config.json").read_text())
        del config["hidden_size"]
        (folder / "config.json").write_text(json.dumps(config))
    elif how == "relative positions":
        edit(folder, position_embedding_type="relative_key")
    elif how == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    elif how == "index":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    elif how == "no map":
        (folder / "model.safetensors.index.json").write_text("[]")
    elif how == "two saves":
        (folder / "other.safetensors").write_bytes(file.read_bytes())
        index = {"weight_map": dict.fromkeys(weights, "other.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how == "no pooling":
        (folder / "modules.json").write_text('[{"type": "models.Pooling", "path": "1_Pooling"}]')
    elif how == "outside":
        file.rename(folder.parent / "secret.safetensors")
        index = {"weight_map": dict.fromkeys(weights, "../secret.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


SPOILED = {
    "family": r"models of type 'mamba' are not known; known are audio-spectr.*, bert, .*@register_family",
    "pickle": r"pytorch_model\.bin is a pickle, .*safe_serialization=True",
    "nothing": r"has no model\.safetensors: copy the whole folder",
    "missing": r"lacks the tensor 'encoder\.layer\.1\.output\.dense\.bias'",
    "left over": r"has no use for: \['encoder\.layer\.1\.gate\.weight'\]",
    "other shape": r"intermediate\.dense\.(weight|bias)' is .*52.*does not give .*48.* that config\.json asks for",
    "other depth": r"lacks the tensor 'encoder\.layer\.2\.",
    "truncated": r"model\.safetensors cannot be read .*: copy it again",
    "activation": r"the activation 'mish' is not known; known are gelu",
    "no width": r"lacks 'hidden_size', which a 'bert' model needs",
    "relative positions": r"position_embedding_type is 'relative_key'; supported is 'absolute'",
    "tokenizer": r"tokenizer\.json cannot be read",
    "index": r"index\.json is not valid JSON",
    "no map": r"index\.json has no weight_map",
    "two saves": r"has model\.safetensors, and .* names other files: remove what is left of another save",
    "no pooling": r"modules\.json names 1_Pooling, which has no config\.json",
    "outside": r"names \.\./secret\.safetensors, which lies outside the folder",
}


TEXTS_IN_CASE = ["The Naïve café", "中文字 x", "[MASK] Word1", "the quick"]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {"do_lower_case": False}),
        ("bert", {"strip_accents": False}),
        ("bert", {"tokenize_chinese_chars": False}),
        ("roberta", {"add_prefix_space": True}),
    ],
)
def test_ids_follow_what_tokenizer_config_says_otherwise(kind: str, settings: dict, tmp_path: Path) -> None:
    small_bert(tmp_path)
    made = wordpiece() if kind == "bert" else byte_level()
    made.save_pretrained(tmp_path / "plain")
    made = (hf.BertTokenizer if kind == "bert" else hf.RobertaTokenizer).from_pretrained(tmp_path / "plain")
    made.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    theirs, ours = hf.AutoTokenizer.from_pretrained(tmp_path), Model.from_pretrained(tmp_path, "cpu").processors["text"]
    changed = [made(text)["input_ids"] for text in TEXTS_IN_CASE]
    assert [theirs(text)["input_ids"] for text in TEXTS_IN_CASE] != changed
    for text in TEXTS_IN_CASE:
        assert ours.features(text).tolist() == theirs(text)["input_ids"]


def test_tokens_that_only_other_files_add_are_asked_for(tmp_path: Path) -> None:
    small_bert(tmp_path)
    wordpiece().save_pretrained(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<think>": 399}')
    with pytest.raises(UnitxError, match=r"tokenizer.json lacks tokens that are added elsewhere, \['<think>'\]: save"):
        Model.from_pretrained(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_hidden_layers": None}, "depth is None, and must be a whole number"),
        ({"num_attention_heads": 1.5}, "heads is 1.5, and must be a whole number"),
        ({"layer_norm_eps": None}, "norm_eps is None, and must be more than 0"),
        ({"vocab_size": "x"}, "config.json: "),
    ],
)
def test_values_that_no_configuration_has_are_named(fields: dict, says: str, tmp_path: Path) -> None:
    small_bert(tmp_path)
    edit(tmp_path, **fields)
    with pytest.raises(UnitxError, match=says) as error:
        Model.from_pretrained(tmp_path, "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", SPOILED)
def test_a_folder_that_cannot_be_loaded_says_why(how: str, tmp_path: Path) -> None:
    small_bert(tmp_path / "model")
    spoiled(tmp_path / "model", how)
    with pytest.raises(UnitxError, match=SPOILED[how]) as error:
        Model.from_pretrained(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_heads_that_are_not_those_of_the_configuration(tmp_path: Path) -> None:
    config = hf.Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=8)
    drawn(hf.Qwen3Model, config).save_pretrained(tmp_path)
    edit(tmp_path, head_dim=10)
    with pytest.raises(UnitxError, match=r"config\.json asks for: they are not of one model"):
        Model.from_pretrained(tmp_path)


def test_a_rotary_that_is_not_known_is_named(tmp_path: Path) -> None:
    drawn(hf.LlamaModel, hf.LlamaConfig(**LLAMA, num_key_value_heads=1)).save_pretrained(tmp_path)
    edit(tmp_path, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0})
    with pytest.raises(UnitxError, match="rope_type is 'dynamic'; supported are default, linear, llama3, yarn"):
        Model.from_pretrained(tmp_path)
    half = {"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.5}
    edit(tmp_path, rope_parameters=half)
    with pytest.raises(UnitxError, match=r"rope_parameters: partial_rotary_factor is 0\.5; supported is 1\.0"):
        Model.from_pretrained(tmp_path)


def test_a_family_of_ones_own_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_bert(tmp_path / "model")
    expected = Model.from_pretrained(tmp_path / "model", "cpu").embed([torch.tensor([5, 6])])
    edit(tmp_path / "model", model_type="my-bert")
    plugin = tmp_path / "my_family.py"
    plugin.write_text(
        "from unitx.families.bert import bert\n"
        "from unitx.registry import register_family\n"
        "register_family('my-bert')(lambda folder: bert(folder))\n"
    )
    monkeypatch.setattr(FAMILIES, "_classes", dict(FAMILIES._classes))
    import_plugin(plugin)
    assert np.array_equal(Model.from_pretrained(tmp_path / "model", "cpu").embed([torch.tensor([5, 6])]), expected)


def test_a_model_without_a_tokenizer_takes_ids(tmp_path: Path) -> None:
    small_bert(tmp_path)
    model = Model.from_pretrained(tmp_path, "cpu")
    assert model.embed([torch.tensor([3, 4])]).shape == (1, 36)
    with pytest.raises(UnitxError, match=r"without a tokenizer\.json and takes ids only"):
        model.embed(["a text"])


def test_the_hubs_cache_is_read_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "models--someone--small-bert"
    small_bert(home / "snapshots" / "0123abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123abc")
    found = Model.from_pretrained("someone/small-bert", "cpu", cache_dir=tmp_path, local_files_only=True)
    assert found.tasks == ["pooled"]
