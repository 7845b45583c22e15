"""Adapters against `peft`: its folders on published models and on ours, and our folders in its hands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers as hf
from published_models import AUDIO, CASES, IMAGES, audio_windows, drawn, sequences, small_bert, wordpiece
from safetensors.torch import load_file, save_file
from small_data import text_rows
from small_models import CLASSES, SHAPE, SPACE, STORIES, batch_of, picture, shake, small_model, sound
from test_sentence_transformers import DOCUMENTS, folder_of
from torch import nn

import unitx
from unitx import cli
from unitx.errors import UnitxError
from unitx.lora import LoRA, has_lora
from unitx.model import Model

ITEMS: list[Any] = ["a cat", "rain", picture(0), sound(0), {"image": picture(1), "text": "a dog"}]


def adapted(model: nn.Module, folder: Path, **given: Any) -> peft.PeftModel:
    """The model with an adapter of peft's that is drawn, written to `folder`."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **given})).eval()
    for name, p in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            nn.init.normal_(p, std=0.3)
    wrapped.save_pretrained(folder)
    return wrapped


def published(case: str, folder: Path) -> nn.Module:
    """A published model as it is loaded from its folder, which its adapters then name."""
    make, config = CASES[case]
    drawn(make, config).save_pretrained(folder)
    return getattr(make, "func", make).from_pretrained(folder, **getattr(make, "keywords", {})).eval()


QKV = ["q_proj", "k_proj", "v_proj"]
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"target_modules": ["query", "value"]}),
    ("bert, no pooler", {"target_modules": ["key", "dense"], "use_rslora": True}),
    ("bert", {"target_modules": r"encoder\.layer\.1\..*(key|dense)", "modules_to_save": ["pooler"]}),
    ("bert, with its head", {"target_modules": ["query", "output.dense"]}),
    ("roberta", {"target_modules": "all-linear", "modules_to_save": ["word_embeddings", "position_embeddings"]}),
    ("distilbert", {"target_modules": ["q_lin", "v_lin", "lin1"]}),
    ("modernbert", {"target_modules": ["Wqkv", "Wi", "Wo"]}),
    ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ("gpt2, odd", {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True}),
    ("gpt2", {"target_modules": ["c_proj"], "layers_to_transform": [1], "layers_pattern": "h"}),
    ("llama", {"target_modules": "all-linear"}),
    ("llama", {"target_modules": [*QKV, "up_proj"], "rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.up_proj": 2},
               "alpha_pattern": {"v_proj": 7, "^model.layers.0.self_attn.k_proj": 9}}),
    ("llama, odd", {"target_modules": QKV, "exclude_modules": ["k_proj"]}),
    ("llama", {"target_modules": ["o_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    ("llama, bare", {"target_modules": [*QKV, "down_proj"]}),
    ("qwen3", {"target_modules": [*QKV, "gate_proj", "lm_head"], "use_rslora": True, "alpha_pattern": {"q_proj": 11}}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "given"), SETTINGS, ids=str)
@torch.no_grad()
def test_an_adapter_of_peft_s_gives_what_it_gives_there(case: str, given: dict[str, Any], tmp_path: Path) -> None:
    original = adapted(published(case, tmp_path / "base"), tmp_path / "adapter", **given)
    ours, base = (Model.from_pretrained(tmp_path / name, "cpu") for name in ("adapter", "base"))
    assert ours.name_or_path == str(tmp_path / "adapter") and not has_lora(ours.backbone)
    pooled, moved = ours.embedding_head, 0.0
    for ids in sequences():
        theirs = original(ids[None], output_hidden_states=True)
        states = ours.hidden_states([ids])[0]
        torch.testing.assert_close(states, theirs.hidden_states[-1][0], atol=1e-4, rtol=0)
        moved = max(moved, float((base.hidden_states([ids])[0] - states).abs().max()))
        if pooled is not None:
            np.testing.assert_allclose(ours.embed([ids], normalize=False), theirs.pooler_output, atol=1e-4)
        if "language-model" in ours.tasks and hasattr(theirs, "logits"):
            said = ours.head("language-model").next_logits(states)
            torch.testing.assert_close(said, theirs.logits[0], atol=1e-3, rtol=1e-4)
    assert moved > 0.1


ATTENTION = ["q_proj", "v_proj", "o_proj"]
OF_PICTURES: list[tuple[str, dict[str, Any]]] = [
    ("vit", {"target_modules": [*ATTENTION, "fc1", "fc2"]}),
    ("vit, classes", {"target_modules": ATTENTION}),
    ("deit", {"target_modules": "all-linear"}),
    ("dinov2", {"target_modules": [*ATTENTION, "fc2"], "use_rslora": True}),
    ("dinov2, registers, gated", {"target_modules": ATTENTION}),
    ("clip, pictures", {"target_modules": "all-linear"}),
    ("siglip, pictures, no head", {"target_modules": ["k_proj", "out_proj", "fc1"]}),
]


@pytest.mark.parametrize(("case", "given"), OF_PICTURES, ids=str)
@torch.no_grad()
def test_an_adapter_on_a_model_of_pictures(case: str, given: dict[str, Any], tmp_path: Path) -> None:
    """Whose modules have other names than its files."""
    base = drawn(*IMAGES[case])
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    original = adapted(base, tmp_path / "adapter", **given)
    items = list(torch.randn(2, 3, base.config.image_size, base.config.image_size))
    ours = Model.from_pretrained(tmp_path / "adapter", "cpu")
    for pixels, states in zip(items, ours.hidden_states(items), strict=True):
        theirs = original.base_model.model.base_model(pixels[None]).last_hidden_state[0]
        torch.testing.assert_close(states, theirs, atol=1e-4, rtol=0)
    plain = Model.from_pretrained(tmp_path / "base", "cpu").hidden_states(items)[0]
    assert (ours.hidden_states(items)[0] - plain).abs().max() > 0.1


CLASSIFYING: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("bert", "SEQ_CLS", hf.BertForSequenceClassification, {"target_modules": ["query", "value"]}),
    ("llama", "SEQ_CLS", hf.LlamaForSequenceClassification, {"target_modules": QKV}),
    ("roberta", "SEQ_CLS", hf.RobertaForSequenceClassification, {"target_modules": ["key"], "num_labels": 5}),
]


@pytest.mark.parametrize(("case", "task", "make", "given"), CLASSIFYING, ids=str)
@torch.no_grad()
def test_an_adapter_may_bring_the_classifier_that_its_base_lacks(
    case: str, task: str, make: Any, given: dict[str, Any], tmp_path: Path
) -> None:
    published(case, tmp_path / "base")
    labels = given.pop("num_labels", 3)
    whole = make.from_pretrained(tmp_path / "base", num_labels=labels)
    original = adapted(whole, tmp_path / "adapter", task_type=task, **given)
    asked = [ids for ids in sequences() if whole.config.pad_token_id not in ids.tolist()]
    theirs = torch.cat([original(ids[None]).logits.softmax(-1) for ids in asked])
    ours = Model.from_pretrained(tmp_path / "adapter", "cpu")
    np.testing.assert_allclose(ours.predict_proba(asked, "text-classify"), theirs, atol=1e-5)


@torch.no_grad()
def test_an_adapter_may_bring_a_classifier_of_pictures(tmp_path: Path) -> None:
    drawn(*IMAGES["vit"]).save_pretrained(tmp_path / "base")
    whole = hf.ViTForImageClassification.from_pretrained(tmp_path / "base", num_labels=4)
    original = adapted(whole, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["classifier"])
    items = list(torch.randn(2, 3, whole.config.image_size, whole.config.image_size))
    ours = Model.from_pretrained(tmp_path / "adapter", "cpu")
    theirs = original(torch.stack(items)).logits.softmax(-1)
    np.testing.assert_allclose(ours.predict_proba(items, "image-classify"), theirs, atol=1e-5)


def test_an_adapter_that_answers_for_each_token_brings_no_classifier(tmp_path: Path) -> None:
    published("bert", tmp_path / "base")
    whole = hf.BertForTokenClassification.from_pretrained(tmp_path / "base", num_labels=3)
    adapted(whole, tmp_path / "adapter", task_type="TOKEN_CLS", target_modules=["query"])
    with pytest.raises(UnitxError, match=r"\['classifier.bias', 'classifier.weight'\]; .* a head that is not taken"):
        Model.from_pretrained(tmp_path / "adapter", "cpu")


@torch.no_grad()
def test_what_an_adapter_does_to_whispers_decoder_is_left(tmp_path: Path) -> None:
    _, config, extractor = AUDIO["whisper"]
    base = drawn(hf.WhisperModel, config)
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    original = adapted(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    ours = Model.from_pretrained(tmp_path / "adapter", "cpu")
    for window in audio_windows(extractor):
        theirs = original.base_model.model.encoder(window[None]).last_hidden_state[0]
        torch.testing.assert_close(ours.hidden_states([window], "audio")[0], theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_base_may_be_of_another_class_and_of_half_precision(tmp_path: Path) -> None:
    whole = published("llama", tmp_path / "base").to(torch.bfloat16)
    whole.save_pretrained(tmp_path / "base")
    bare = type(whole.base_model).from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    original = adapted(bare, tmp_path / "adapter", target_modules=QKV)  # its names lack "model."
    ids = sequences()[0]
    ours = Model.from_pretrained(tmp_path / "adapter", "cpu").hidden_states([ids])[0]
    torch.testing.assert_close(ours, original(ids[None]).last_hidden_state[0], atol=1e-4, rtol=0)


def with_files(adapter: Path, files: Path) -> Path:
    """The adapter's folder with the files of sentence-transformers and a tokenizer."""
    folder_of("bert", files, "cls_token")
    for name in ("config.json", "model.safetensors"):
        (files / name).unlink()
    return shutil.copytree(files, adapter, dirs_exist_ok=True)


def test_files_beside_the_adapter_go_before_those_of_the_base(tmp_path: Path) -> None:
    """As sentence-transformers and trainers leave them there: pooling, prompts, a tokenizer."""
    model, pooler = small_bert(tmp_path / "base"), "base_model.model.pooler.dense.lora_B.weight"
    adapted(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter", target_modules=["query", "dense"])
    with pytest.raises(UnitxError, match=r"\['pooler\.dense\.weight'\]"):
        Model.from_pretrained(with_files(tmp_path / "adapter", tmp_path / "files"))
    tensors(lambda found: found | {pooler: found[pooler] * 0})(tmp_path / "adapter")  # as it stays in training
    merged = peft.PeftModel.from_pretrained(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    tokenizer = hf.PreTrainedTokenizerFast.from_pretrained(tmp_path / "files")
    texts = [text for text in DOCUMENTS if len(tokenizer(text)["input_ids"]) <= 40]
    with torch.no_grad():
        states = [merged.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0] for text in texts]
    theirs = nn.functional.normalize(torch.stack(states), dim=-1)
    found = Model.from_pretrained(tmp_path / "adapter", "cpu").embed(texts, "text")
    np.testing.assert_allclose(found, theirs, atol=1e-5)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model of ours that reads text, pictures and sound."""
    return small_model(CLASSES, SPACE).save_pretrained(tmp_path / "base")


def turned(base: Path, frozen: tuple[str, ...] = ()) -> Model:
    """The model with adapters of ours that say something."""
    model = Model.from_pretrained(base, "cpu")
    torch.manual_seed(1)
    model.add_adapters(frozen)
    for module in model.modules():
        if isinstance(module, LoRA):
            nn.init.normal_(module.lora_B, std=0.3)
    return model


@pytest.mark.parametrize("frozen", [(), ("text",)])
def test_an_adapter_of_ours_comes_back_to_the_last_bit(frozen: tuple[str, ...], base: Path, tmp_path: Path) -> None:
    model = turned(base, frozen)
    folder = model.save_adapter(tmp_path / "adapter")
    again = Model.from_pretrained(folder, "cpu")
    assert np.array_equal(again.embed(ITEMS), model.embed(ITEMS)) and again.frozen == list(frozen)
    assert {name for name, p in again.named_parameters() if p.requires_grad} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    names = set(load_file(folder / "adapter_model.safetensors"))
    assert names == {
        f"base_model.model.backbone.blocks.0.{module}.lora_{half}.weight"
        for module in ("attn.qkv", "attn.out", "mlp.up", "mlp.down") for half in "AB"
    }  # fmt: skip
    before = Model.from_pretrained(base, "cpu").embed(ITEMS)
    assert [np.array_equal(*rows) for rows in zip(before, again.embed(ITEMS), strict=True)] == [
        bool(frozen), bool(frozen), False, False, False,
    ]  # fmt: skip


def test_peft_loads_an_adapter_of_ours(base: Path, tmp_path: Path) -> None:
    model = turned(base)
    folder = model.save_adapter(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(Model.from_pretrained(base, "cpu"), folder)
    np.testing.assert_allclose(theirs.embed(ITEMS), model.embed(ITEMS), atol=1e-6)
    merged = theirs.merge_and_unload()
    np.testing.assert_allclose(merged.embed(ITEMS), model.embed(ITEMS), atol=1e-6)


def test_peft_passes_all_through_what_is_frozen_here(base: Path, tmp_path: Path) -> None:
    folder = turned(base, ("text",)).save_adapter(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(Model.from_pretrained(base, "cpu"), folder)
    np.testing.assert_allclose(theirs.embed(ITEMS), turned(base).embed(ITEMS), atol=1e-6)


def test_what_else_was_trained_is_in_the_folder(base: Path, tmp_path: Path) -> None:
    model = turned(base)
    model.add_task(STORIES)
    shake(model.heads["stories"], 1)
    shake(model.heads["space"], 2)
    folder = model.save_adapter(tmp_path / "adapter")
    modules = json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]
    assert modules == ["heads.space", "heads.stories"]
    again = Model.from_pretrained(folder, "cpu")
    assert again.tasks == ["kind", "space", "stories"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    told = Model.from_pretrained(base, "cpu")
    told.add_task(STORIES)  # peft puts weights in, and adds no modules
    theirs = peft.PeftModel.from_pretrained(told, folder)
    np.testing.assert_allclose(theirs.embed(ITEMS), model.embed(ITEMS), atol=1e-6)
    given: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
    assert theirs.get_base_model().generate(["a"], **given) == model.generate(["a"], **given)


def test_a_new_modality_and_a_published_base(tmp_path: Path) -> None:
    small_bert(tmp_path / "base")
    wordpiece().save_pretrained(tmp_path / "base")
    model = turned(tmp_path / "base")
    model.add_tokenizer("image", small_model().processors["image"])
    folder = model.eval().save_adapter(tmp_path / "adapter")
    again = Model.from_pretrained(folder, "cpu")
    items = ["word1 and number 2", picture(0)]
    assert np.array_equal(again.embed(items), model.embed(items)) and again.modalities == ["image", "text"]
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert size < (tmp_path / "base" / "model.safetensors").stat().st_size
    assert cli.main(["convert", str(folder), str(tmp_path / "merged")]) == 0
    merged = Model.from_pretrained(tmp_path / "merged", "cpu")
    assert not has_lora(merged.backbone)
    np.testing.assert_allclose(merged.embed(items), model.embed(items), atol=1e-5)


def test_a_tied_head_needs_no_tensor_of_its_own(tmp_path: Path) -> None:
    published("gpt2, odd", tmp_path / "base")
    model = turned(tmp_path / "base")
    again = Model.from_pretrained(model.save_adapter(tmp_path / "adapter"), "cpu")
    assert again.head("language-model").head.weight is again.tokenizers["text"].embed.weight
    states = (one.hidden_states(sequences()) for one in (model, again))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_converted_adapters_of_frozen_modalities_stay_apart(base: Path, tmp_path: Path) -> None:
    model = turned(base, ("text",))
    folder = model.save_adapter(tmp_path / "adapter")
    assert cli.main(["convert", str(folder), str(tmp_path / "out")]) == 0
    again = Model.from_pretrained(tmp_path / "out", "cpu")
    assert again.frozen == ["text"] and np.array_equal(again.embed(ITEMS), model.embed(ITEMS))


def test_peft_trains_a_model_of_ours(base: Path, tmp_path: Path) -> None:
    model = Model.from_pretrained(base, "cpu")
    wrapped = adapted(
        model, tmp_path / "adapter", target_modules=["qkv", "mlp.up"], rank_pattern={"qkv": 2}, use_rslora=True,
        modules_to_save=["heads.space"],
    )  # fmt: skip
    again = Model.from_pretrained(tmp_path / "adapter", "cpu")
    np.testing.assert_allclose(again.embed(ITEMS), wrapped.embed(ITEMS), atol=1e-5)
    assert not np.allclose(again.embed(ITEMS), Model.from_pretrained(base, "cpu").embed(ITEMS), atol=1e-2)
    wrapped(batch_of(wrapped, [("kind", {"picture": picture(0), "kind": "cat"})]))[0].backward()
    assert all(p.grad is not None for name, p in wrapped.named_parameters() if "attn.qkv.lora_B" in name)


@pytest.mark.parametrize("freeze", ["", "text"])
def test_finetuning_with_lora_leaves_the_adapter_beside_the_model(freeze: str, base: Path, tmp_path: Path) -> None:
    rows = [{**row, "image": picture(i)} for i, row in enumerate(text_rows(12))]
    reads = "image" if freeze else "text"
    recipe = unitx.Recipe(tasks={"topic": unitx.recipe.TaskRecipe("classify", reads=reads, label="label")})
    run = unitx.finetune(
        base, recipe, data=rows, tune="lora", freeze=freeze, steps=3, evaluations=1, workers=0, precision="fp32",
        out=str(tmp_path / "run"), echo=False,
    )  # fmt: skip
    again = Model.from_pretrained(run.folder / "adapter", "cpu")
    np.testing.assert_allclose(again.embed(ITEMS), run.model.embed(ITEMS), atol=1e-6)
    items = [row[reads] for row in rows]
    np.testing.assert_allclose(again.predict_proba(items, "topic"), run.model.predict_proba(items, "topic"), atol=1e-6)


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        save_file(change(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")

    return spoil


def fields(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, **changes)


def more(name: str, *shape: int) -> Callable[[Path], None]:
    return tensors(lambda found: found | {f"base_model.model.{name}": torch.zeros(shape)})


QUERY = "base_model.model.encoder.layer.0.attention.self.query"
SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another kind": (fields(peft_type="IA3"), r"adapters of type 'IA3' are not supported; supported is 'LORA'"),
    "dora": (fields(use_dora=True), r"use_dora is True, which is not supported; merge the adapter with peft"),
    "bias": (fields(bias="lora_only"), r"bias is 'lora_only', which is not supported"),
    "lora bias": (fields(lora_bias=True), r"lora_bias is True, which is not supported"),
    "parameters": (fields(target_parameters=["x"]), r"target_parameters is \['x'\], which is not supported"),
    "a field to come": (fields(use_newest=True), r"use_newest is True, which is not supported"),
    "a base that moves": (fields(init_lora_weights="pissa"), r"init_lora_weights is 'pissa', which is not supported"),
    "no base": (fields(base_model_name_or_path=None), r"names no base: write its folder or id as base_model_name_or_"),
    "a base elsewhere": (fields(base_model_name_or_path="/no/where"), r"is an adapter, and its base is missing: .*/no"),
    "another rank": (fields(r=5), r"'encoder\.layer\..*query' has .*\(4, 36\).* and adapter_config.json gives it rank"),
    "broken json": (lambda folder: (folder / "adapter_config.json").write_text("{"), r"cannot be read as an adapter"),
    "pickle": (lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
               r"has no adapter_model\.safetensors: adapter_model\.bin is a pickle"),
    "nothing": (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"safetensors: copy all of it"),
    "truncated": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"12"), r"cannot be read as an ad"),
    "empty": (tensors(lambda found: {"base_model.model.pooler.dense.bias": torch.zeros(36)}), r"holds no adapter"),
    "half a pair": (tensors(lambda found: {n: v for n, v in found.items() if n != f"{QUERY}.lora_B.weight"}),
                    r"layer\.0\.attention\.self\.query' has \{'lora_A': \(4, 36\)\}"),
    "left over": (more("gate.weight", 2, 36), r"changes what its base .*\['gate\.weight'\]"),
    "half a head": (more("classifier.weight", 2, 36), r"lacks the tensor 'classifier\.bias'"),
    "a base layer": (more("embeddings.word_embeddings.base_layer.weight", 2, 2), r"word_embeddings\.weight' as \(2, 2"),
    "an embedding's": (more("embeddings.word_embeddings.lora_embedding_A", 4, 9), r"lora_embedding_A', which is not"),
    "a magnitude": (more("encoder.lora_magnitude_vector.weight", 36), r"lora_magnitude_vector.weight', which is not"),
    "no prefix": (tensors(lambda found: found | {"query.weight": torch.zeros(2)}), r"holds 'query\.weight', which is"),
    "another shape": (tensors(lambda found: found | {f"{QUERY}.lora_A.weight": torch.zeros(4, 30)}),
                      r"query\.weight' as \(36, 30\), and its base .* as \(36, 36\): it was made for another model"),
    "another whole": (more("pooler.dense.bias", 30), r"'pooler\.dense\.bias' as \(30,\), and its base"),
    "another target": (more("encoder.layer.7.attention.self.query.lora_A.weight", 4, 36), r"layer\.7.* has \{'lora_A'"),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
def test_an_adapter_that_cannot_be_loaded_says_why(how: str, tmp_path: Path) -> None:
    adapted(published("bert", tmp_path / "base"), tmp_path / "adapter", target_modules=["query"])
    spoil, says = SPOILED[how]
    spoil(tmp_path / "adapter")
    with pytest.raises(UnitxError, match=says) as error:
        Model.from_pretrained(tmp_path / "adapter", "cpu")
    assert "\n" not in str(error.value)


def test_an_adapter_of_deeper_layers_or_of_itself_is_refused(tmp_path: Path) -> None:
    adapted(published("bert", tmp_path / "base"), tmp_path / "adapter", target_modules=["query"])
    published("bert, with its head", tmp_path / "shallow")
    edit(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "shallow"))
    with pytest.raises(UnitxError, match=r"does not have or is not read here: \['encoder\.layer\.1\."):
        Model.from_pretrained(tmp_path / "adapter", "cpu")
    edit(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "adapter"))
    with pytest.raises(UnitxError, match="names itself as its base"):
        Model.from_pretrained(tmp_path / "adapter", "cpu")


def test_a_head_that_shares_its_table_is_not_adapted(tmp_path: Path) -> None:
    adapted(published("gpt2, odd", tmp_path / "base"), tmp_path / "adapter", target_modules=["c_attn", "lm_head"])
    with pytest.raises(UnitxError, match=r"\['lm_head\.weight'\]; .* a table of token vectors that the head shares"):
        Model.from_pretrained(tmp_path / "adapter", "cpu")


def test_an_adapter_cannot_be_written_without_its_base(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UnitxError, match=r"has no adapters .*: use save_pretrained"):
        Model.from_pretrained(base, "cpu").save_adapter(tmp_path / "adapter")
    made = small_model(CLASSES, SPACE)
    made.add_adapters()
    with pytest.raises(UnitxError, match="not loaded from a folder: say what its adapters are for, base="):
        made.save_adapter(tmp_path / "adapter")
    other = small_model(CLASSES, SPACE, seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(UnitxError, match=r"other is not what the adapters are for: its backbone\.\S+ is another"):
        turned(base).save_adapter(tmp_path / "adapter", other)
    with pytest.raises(UnitxError, match="base holds a whole model: name another folder"):
        turned(base).save_adapter(base)
    assert not (tmp_path / "adapter").exists()
    folder = turned(base).save_adapter(tmp_path / "adapter", base)
    with pytest.raises(UnitxError, match="holds an adapter: name another folder"):
        turned(base).save_pretrained(folder)


def test_an_adapter_of_ours_that_was_changed_is_refused(base: Path, tmp_path: Path) -> None:
    folder = turned(base).save_adapter(tmp_path / "adapter")
    edit(folder, lora_alpha=4)
    with pytest.raises(UnitxError, match="have rank 8 and lora_alpha 16"):
        Model.from_pretrained(folder, "cpu")
    edit(folder, lora_alpha=16)
    more("heads.kind.extra", 2)(folder)
    with pytest.raises(UnitxError, match=r"\['heads\.kind\.extra'\]"):
        Model.from_pretrained(folder, "cpu")
    tensors(lambda found: {n: v for n, v in found.items() if "extra" not in n and "mlp.up" not in n})(folder)
    with pytest.raises(UnitxError, match=r"lack the tensor 'backbone\.blocks\.0\.mlp\.up\.lora_A'"):
        Model.from_pretrained(folder, "cpu")
    wider = small_model(CLASSES, SPACE, shape=unitx.config.BackboneConfig(**{**vars(SHAPE), "dim": 48}))
    folder = turned(base).save_adapter(tmp_path / "again")
    edit(folder, base_model_name_or_path=str(wider.save_pretrained(tmp_path / "wider")))
    with pytest.raises(UnitxError, match="is not of its base"):
        Model.from_pretrained(folder, "cpu")


def test_a_base_is_found_from_everywhere_and_never_written_over(tmp_path: Path, monkeypatch: Any) -> None:
    small_bert(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    model = Model.from_pretrained("base", "cpu")
    model.add_adapters()
    for module in model.backbone.modules():
        if isinstance(module, LoRA):
            torch.nn.init.normal_(module.lora_B, std=0.1)
    model.save_adapter("adapter")
    monkeypatch.chdir("/")
    again = Model.from_pretrained(tmp_path / "adapter", "cpu")
    assert again.name_or_path == str(tmp_path / "base")
    again.save_adapter(tmp_path / "adapter")  # back to where it came from, for the same base
    ids = sequences()
    np.testing.assert_array_equal(Model.from_pretrained(tmp_path / "adapter", "cpu").embed(ids), model.embed(ids))
    with pytest.raises(UnitxError, match="holds a whole model: name another folder"):
        again.save_adapter(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "elsewhere")  # as where weights are in shards
    with pytest.raises(UnitxError, match="holds a whole model: name another folder"):
        model.save_adapter(tmp_path / "base")
    with pytest.raises(UnitxError, match="cannot be the base of its own adapters"):
        again.save_adapter(tmp_path / "adapter", base=tmp_path / "adapter")


@pytest.mark.parametrize(("field", "value", "says"), [
    ("r", "8", "r is '8', and must be a number above 0"),
    ("lora_alpha", None, "lora_alpha is None, and must be a number above 0"),
    ("rank_pattern", {"(": 3}, r"rank_pattern: missing \), unterminated"),
])  # fmt: skip
def test_a_configuration_that_is_none_is_named(field: str, value: Any, says: str, tmp_path: Path) -> None:
    adapted(published("bert", tmp_path / "base"), tmp_path / "adapter", target_modules=["query"])
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(UnitxError, match=says):
        Model.from_pretrained(tmp_path / "adapter", "cpu")


def test_adapters_of_each_other_are_refused(tmp_path: Path) -> None:
    adapted(published("bert", tmp_path / "base"), tmp_path / "a", target_modules=["query"])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name, other in (("a", "b"), ("b", "a")):
        file = tmp_path / name / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(tmp_path / other)}))
    with pytest.raises(UnitxError, match="and its base are adapters of each other"):
        Model.from_pretrained(tmp_path / "a", "cpu")
