"""Adapters: nothing at first, foldable, and passed by what is frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unitx.config import BackboneConfig
from unitx.lora import LoRA, add_lora, has_lora, merge_lora
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tokenizers.image import ImageProcessor
from unitx.tokenizers.text import TextProcessor


def small_model() -> Model:
    torch.manual_seed(0)
    info = TaskInfo("topic", "classify", {"text": "text"}, "label", ["a", "b"])
    processors = {"image": ImageProcessor(max_tokens=4, patch=8), "text": TextProcessor(max_tokens=32)}
    model = Model(BackboneConfig(dim=32, depth=2, heads=4), processors, [info]).eval()
    for p in model.backbone.parameters():  # a new backbone is the identity, in which adapters would stand idle
        torch.nn.init.normal_(p, std=0.1)
    return model


def states(model: Model) -> list[torch.Tensor]:
    """Hidden states of a text, a picture and a sequence of both, each in a batch of its own."""
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    items = ["a word", picture, {"image": picture, "text": "both"}]
    kinds = ["text", "image", None]
    return [model.hidden_states([item], kind)[0] for item, kind in zip(items, kinds, strict=True)]


def turn_adapters(model: Model, amount: float = 0.3) -> None:
    for module in model.modules():
        if isinstance(module, LoRA):
            torch.nn.init.normal_(module.lora_B, std=amount)


def test_new_adapters_change_nothing():
    model = small_model()
    before = states(model)
    add_lora(model.backbone)
    assert has_lora(model.backbone)
    assert sum(isinstance(m, LoRA) for m in model.modules()) == 2 * 4
    assert all(torch.equal(a, b) for a, b in zip(before, states(model), strict=True))


def test_only_adapters_of_the_backbone_train():
    model = small_model()
    add_lora(model.backbone)
    free = {name.rsplit(".", 1)[1] for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert free == {"lora_A", "lora_B"}


def test_merged_weights_equal_the_adapters():
    model = small_model()
    before = states(model)
    names = list(model.state_dict())
    add_lora(model.backbone)
    turn_adapters(model)
    adapted = states(model)
    merge_lora(model.backbone)
    assert not has_lora(model.backbone) and list(model.state_dict()) == names
    assert all(p.requires_grad for p in model.backbone.parameters())
    for first, wanted, found in zip(before, adapted, states(model), strict=True):
        assert torch.allclose(wanted, found, atol=1e-6, rtol=1e-5) and not torch.allclose(first, wanted, atol=1e-2)


def test_the_change_is_of_low_rank_and_scaled_by_two():
    model = small_model()
    base = model.backbone.blocks[0].mlp.up
    before = base.weight.detach().clone()
    add_lora(model.backbone)
    turn_adapters(model)
    adapter = model.backbone.blocks[0].mlp.up
    change = adapter.merged().weight.detach() - before
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 8
    assert torch.allclose(change, 2 * adapter.lora_B.detach() @ adapter.lora_A.detach(), atol=1e-6)


@pytest.mark.parametrize(("frozen", "unchanged"), [([], []), (["text"], [0]), (["image"], [1]),
                                                   (["image", "text"], [0, 1, 2])])  # fmt: skip
def test_frozen_modalities_pass_the_adapters_by(frozen: list[str], unchanged: list[int]):
    model = small_model()
    before = states(model)
    model.add_adapters(frozen)
    turn_adapters(model)
    after = states(model)
    assert [i for i in range(3) if torch.equal(before[i], after[i])] == unchanged


def test_gates_are_for_each_sequence_of_a_mixed_batch():
    model = small_model()
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    items = ["a word", picture, "another", {"image": picture, "text": "both"}, "and one more"]
    before = model.hidden_states(items)
    model.add_adapters(["text"])
    turn_adapters(model)
    after = model.hidden_states(items)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True, False, True]


def test_adapters_survive_saving(tmp_path: Path):
    model = small_model()
    model.add_adapters(["text"])
    turn_adapters(model)
    model.save_pretrained(tmp_path)
    loaded = Model.from_pretrained(tmp_path, "cpu")
    assert loaded.frozen == ["text"] and has_lora(loaded.backbone)
    assert all(torch.equal(a, b) for a, b in zip(states(model), states(loaded), strict=True))


def test_frozen_text_is_generated_as_before():
    torch.manual_seed(0)
    processors = {"image": ImageProcessor(max_tokens=4, patch=8), "text": TextProcessor(max_tokens=32)}
    info = TaskInfo("write", "next_token", {"text": "text"})
    model = Model(BackboneConfig(dim=32, depth=2, heads=4), processors, [info]).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    before = model.generate(["ab", "a longer one"], max_tokens=8, temperature=0)
    model.add_adapters(["text"])
    turn_adapters(model)
    states(model)  # gates of another batch are gone after it
    assert model.generate(["ab", "a longer one"], max_tokens=8, temperature=0) == before


def test_the_backbone_works_alone_after_a_batch_of_the_model() -> None:
    model = small_model()
    model.add_adapters(frozen=["text"])
    turn_adapters(model)
    states(model)
    assert all(module.gate is None for module in model.modules() if isinstance(module, LoRA))
