from __future__ import annotations

import math
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

from unitx.backbone import Backbone, LayerNorm, Linear, rotary_table, rotate
from unitx.config import BackboneConfig
from unitx.tokens import Tokens, line_positions

CONFIGS = [
    BackboneConfig(dim=16, depth=2, heads=2),
    BackboneConfig(dim=24, depth=3, heads=4, kv_heads=2, window=3, mlp_ratio=2.0, rotary_base=100.0),
    BackboneConfig(dim=32, depth=2, heads=4, kv_heads=1),
]
Shapes = list[tuple[int, int]]  # (length, prefix) of each sequence


def trained(config: BackboneConfig, seed: int = 0) -> Backbone:
    """A backbone with weights as after training: a new one is the identity and would pass any test."""
    generator = torch.Generator().manual_seed(seed)
    backbone = Backbone(config)
    for parameter in backbone.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        base = 1.0 if parameter.ndim == 1 else 0.0
        parameter.data = base + noise * (0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
    return backbone


@st.composite
def ragged(draw: st.DrawFn) -> Shapes:
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    return [(n, draw(st.integers(0, n))) for n in lengths]


def random_sequences(shapes: Shapes, dim: int) -> list[Tensor]:
    return [torch.randn(n, dim) for n, _ in shapes]


def plain_backbone(backbone: Backbone, x: Tensor, positions: Tensor, prefix: int) -> Tensor:
    """One sequence (n, dim) in float64 by the definitions."""
    c = backbone.config
    w = {name: p.detach().double() for name, p in backbone.named_parameters()}
    n, d, kv = len(x), c.dim // c.heads, c.kv_heads or c.heads

    def norm(z: Tensor, gain: Tensor) -> Tensor:
        centred = z - z.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain

    def turn(z: Tensor) -> Tensor:
        angles = [[float(p[i % 3]) * c.rotary_base ** (-2 * i / d) for i in range(d // 2)] for p in positions]
        angle = torch.tensor(angles, dtype=torch.float64)[:, None]
        cos, sin = angle.cos(), angle.sin()
        even, odd = z[..., ::2], z[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

    for b in range(c.depth):
        p = f"blocks.{b}."
        qkv = (norm(x, w[p + "attn_norm.weight"]) @ w[p + "attn.qkv.weight"].T).view(n, c.heads + 2 * kv, d)
        q = turn(norm(qkv[:, : c.heads], w[p + "attn.q_norm.weight"]))
        k = turn(norm(qkv[:, c.heads : c.heads + kv], w[p + "attn.k_norm.weight"]))
        v = qkv[:, c.heads + kv :]
        mixed = torch.zeros(n, c.heads, d, dtype=torch.float64)
        for i in range(n):
            past = [j for j in range(n) if j <= i or (i < prefix and j < prefix)]
            seen = [j for j in past if c.window is None or abs(i - j) <= c.window]
            for h in range(c.heads):
                g = h // (c.heads // kv)
                weight = torch.softmax(k[seen, g] @ q[i, h] / math.sqrt(d), dim=0)
                mixed[i, h] = weight @ v[seen, g]
        x = x + mixed.reshape(n, c.dim) @ w[p + "attn.out.weight"].T
        up = norm(x, w[p + "mlp_norm.weight"]) @ w[p + "mlp.up.weight"].T + w[p + "mlp.up.bias"]
        gelu = up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))
        x = x + gelu @ w[p + "mlp.down.weight"].T + w[p + "mlp.down.bias"]
    return norm(x, w["norm.weight"])


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_a_plain_implementation(config: BackboneConfig) -> None:
    shapes = [(5, 5), (7, 0), (1, 0), (7, 3), (5, 5), (9, 8)]
    backbone = trained(config)
    sequences = random_sequences(shapes, config.dim)
    positions = [torch.randint(0, 50, (n, 3)) for n, _ in shapes]
    tokens = Tokens.from_list(sequences, [p for _, p in shapes], [p.numpy() for p in positions])
    for x, place, (_, prefix), found in zip(sequences, positions, shapes, backbone(tokens).to_list(), strict=True):
        expected = plain_backbone(backbone, x.double(), place, prefix)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
@given(ragged(), st.randoms(use_true_random=False))
def test_a_sequence_does_not_depend_on_the_rest_of_the_batch_or_its_order(
    config: BackboneConfig, shapes: Shapes, random: Random
) -> None:
    backbone = trained(config)
    sequences = random_sequences(shapes, config.dim)
    together = backbone(Tokens.from_list(sequences, [p for _, p in shapes])).to_list()
    order = list(range(len(shapes)))
    random.shuffle(order)
    shuffled = backbone(Tokens.from_list([sequences[i] for i in order], [shapes[i][1] for i in order])).to_list()
    for place, i in enumerate(order):
        alone = backbone(Tokens.from_list([sequences[i]], [shapes[i][1]])).vectors
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(shuffled[place], alone, atol=1e-5, rtol=1e-5)


def influence(backbone: Backbone, shapes: Shapes) -> list[Tensor]:
    """For each sequence (n, n) bool: whether output i depends on input j; also that no sequence sees another."""
    sequences = [x.requires_grad_() for x in random_sequences(shapes, backbone.config.dim)]
    outputs = backbone(Tokens.from_list(sequences, [p for _, p in shapes])).to_list()
    found = []
    for number, output in enumerate(outputs):
        rows = []
        for i in range(len(output)):
            gradients = torch.autograd.grad(output[i].sin().sum(), sequences, retain_graph=True)
            assert all(not g.any() for other, g in enumerate(gradients) if other != number)
            rows.append(gradients[number].ne(0).any(-1))
        found.append(torch.stack(rows))
    return found


@given(st.lists(st.integers(1, 10), min_size=1, max_size=3))
def test_with_prefix_0_no_token_sees_a_later_one(lengths: list[int]) -> None:
    for n, seen in zip(lengths, influence(trained(CONFIGS[0]), [(n, 0) for n in lengths]), strict=True):
        assert torch.equal(seen, torch.ones(n, n, dtype=torch.bool).tril())


@given(ragged())
def test_a_prefix_sees_all_of_itself_and_nothing_later(shapes: Shapes) -> None:
    for (n, prefix), seen in zip(shapes, influence(trained(CONFIGS[2]), shapes), strict=True):
        expected = torch.ones(n, n, dtype=torch.bool).tril()
        expected[:prefix, :prefix] = True
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("prefix", [0, 9, 20])
def test_a_window_reaches_both_ways_in_the_prefix_and_only_back_after_it(prefix: int) -> None:
    config = BackboneConfig(dim=16, depth=1, heads=2, window=4)
    (seen,) = influence(trained(config), [(20, prefix)])
    i, j = torch.arange(20)[:, None], torch.arange(20)
    assert torch.equal(seen, ((j <= i) | ((i < prefix) & (j < prefix))) & ((i - j).abs() <= 4))


@given(ragged())
def test_a_new_backbone_is_the_identity_before_its_final_norm(shapes: Shapes) -> None:
    config = BackboneConfig(dim=16, depth=3, heads=2, kv_heads=1, window=4)
    backbone, record = Backbone(config), {}
    tokens = Tokens.from_list(random_sequences(shapes, 16), [p for _, p in shapes])
    out = backbone(tokens, record=record)
    assert torch.equal(record["embed"], tokens.vectors)
    assert torch.equal(record["block2.mlp"], tokens.vectors)
    torch.testing.assert_close(out.vectors, torch.nn.functional.layer_norm(tokens.vectors, (16,), eps=1e-6))


def test_a_new_backbone_learns_in_every_branch() -> None:
    backbone = Backbone(BackboneConfig(dim=16, depth=3, heads=2))
    backbone(Tokens.from_list([torch.randn(5, 16)])).vectors.sin().sum().backward()
    for block in backbone.blocks:
        assert block.attn.out.weight.grad.abs().sum() > 0
        assert block.mlp.down.weight.grad.abs().sum() > 0


def test_text_turns_as_in_gpt_j() -> None:
    """GPT-J turns neighbouring pairs by their place in the line, with a base of 10,000."""
    x = torch.randn(30, 4, 16)
    sin, cos = create_sinusoidal_positions(1030, 16)[1000:].chunk(2, dim=-1)
    expected = apply_rotary_pos_emb(x[None], sin[None], cos[None])[0]
    table = rotary_table(torch.from_numpy(line_positions(1030)[1000:]), 16, 10_000.0)
    torch.testing.assert_close(rotate(x, table), expected, atol=1e-4, rtol=0.0)


coordinates = st.tuples(*[st.integers(0, 200)] * 3)


@given(coordinates, coordinates, coordinates)
def test_scores_depend_on_relative_positions_only(
    a: tuple[int, int, int], b: tuple[int, int, int], shift: tuple[int, int, int]
) -> None:
    """Moved together by any shift along the three axes, two tokens look the same to each other."""
    q, k = torch.randn(2, 1, 1, 12, dtype=torch.float64)

    def score(at: Tensor, other: Tensor) -> Tensor:
        turned = [rotate(x, rotary_table(p[None], 12, 10_000.0)) for x, p in ((q, at), (k, other))]
        return (turned[0] * turned[1]).sum()

    here, there, moved = torch.tensor(a), torch.tensor(b), torch.tensor(shift)
    torch.testing.assert_close(score(here + moved, there + moved), score(here, there), atol=2e-4, rtol=0.0)


def test_every_axis_turns_its_own_pairs() -> None:
    x = torch.ones(1, 1, 12)
    still = rotate(x, rotary_table(torch.zeros(1, 3), 12, 10_000.0))
    assert torch.equal(still, x)
    turned = [rotate(x, rotary_table(torch.eye(3)[axis : axis + 1], 12, 10_000.0)) != x for axis in range(3)]
    pairs = [t[0, 0].nonzero()[:, 0].tolist() for t in turned]
    assert pairs == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=5), st.integers(1, 4))
@torch.inference_mode()
def test_the_cache_gives_what_the_whole_sequence_gives(
    config: BackboneConfig, free: bool, prompts: list[int], steps: int
) -> None:
    """Ragged prompts at once, then a token a step; a free prompt sees itself (prefix = its length)."""
    backbone = trained(config)
    sequences = [torch.randn(n + steps, config.dim) for n in prompts]
    prefix = [n if free else 0 for n in prompts]
    expected = backbone(Tokens.from_list(sequences, prefix)).to_list()

    cache = backbone.new_cache(len(prompts), max(prompts) + steps, sequences[0])
    prompt = Tokens.from_list([x[:n] for x, n in zip(sequences, prompts, strict=True)], prefix)
    found = [[x] for x in backbone(prompt, cache=cache).to_list()]
    for step in range(steps):
        places = [line_positions(n + step + 1)[-1:] for n in prompts]
        one = Tokens.from_list([x[[n + step]] for x, n in zip(sequences, prompts, strict=True)], positions=places)
        for got, x in zip(found, backbone(one, cache=cache).to_list(), strict=True):
            got.append(x)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.cat(got), want, atol=1e-5, rtol=1e-5)


def test_the_record_names_what_happened_and_its_weights_make_the_attention() -> None:
    config = CONFIGS[1]
    backbone, record = trained(config), {}
    shapes = [(5, 5), (7, 0), (8, 3)]
    tokens = Tokens.from_list(random_sequences(shapes, config.dim), [p for _, p in shapes])
    out = backbone(tokens, record=record, weights=True)
    branches = [f"block{i}.{branch}" for i in range(3) for branch in ("weights", "attn", "mlp")]
    assert list(record) == ["embed", *branches, "final"]
    assert torch.equal(record["final"], out.vectors)

    stream = record["embed"]
    for i, block in enumerate(backbone.blocks):
        v = block.attn.qkv(block.attn_norm(stream)).view(-1, 8, 6)[:, 6:].repeat_interleave(2, dim=1)
        mixed = []
        for weights, told in zip(record[f"block{i}.weights"], v.split(tokens.layout.lengths), strict=True):
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
            mixed.append(torch.einsum("hij,jhd->ihd", weights, told))
        attended = stream + block.attn.out(torch.cat(mixed).flatten(1))
        torch.testing.assert_close(record[f"block{i}.attn"], attended, atol=1e-5, rtol=1e-5)
        stream = attended + block.mlp(block.mlp_norm(attended))
        torch.testing.assert_close(record[f"block{i}.mlp"], stream, atol=1e-5, rtol=1e-5)


def test_without_a_record_or_weights_nothing_extra_is_kept() -> None:
    record: dict = {}
    Backbone(CONFIGS[0])(Tokens.from_list([torch.randn(3, 16)]), record=record)
    assert not [name for name in record if name.endswith("weights")]


def test_linear_follows_its_input_while_weights_stay_float32() -> None:
    layer = Linear(8, 4)
    x = torch.randn(5, 8).bfloat16().requires_grad_()
    y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert layer.weight.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16
    exact = torch.nn.functional.linear(x.float(), layer.weight, layer.bias)
    torch.testing.assert_close(y.float(), exact, atol=2e-2, rtol=2e-2)
    expected = torch.autograd.grad(exact.square().sum(), layer.weight)[0]
    torch.testing.assert_close(layer.weight.grad, expected, atol=0.1, rtol=5e-2)


def test_the_whole_backbone_follows_bf16_forward_and_backward() -> None:
    backbone = trained(CONFIGS[1])
    sequences = random_sequences([(6, 6), (9, 0), (9, 4)], 24)
    exact = backbone(Tokens.from_list(sequences, [6, 0, 4])).vectors
    half = backbone(Tokens.from_list([x.bfloat16() for x in sequences], [6, 0, 4])).vectors
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float(), exact).min() > 0.99
    half.float().sin().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in backbone.parameters())


def test_layer_norm_equals_torch() -> None:
    norm, peer = LayerNorm(6), torch.nn.LayerNorm(6, eps=1e-6, bias=False)
    norm.weight.data = torch.randn(6)
    peer.load_state_dict(norm.state_dict())
    x = torch.randn(4, 3, 6)
    torch.testing.assert_close(norm(x), peer(x))


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients_of_a_mixed_batch_equal_the_sum_over_single_sequences(config: BackboneConfig) -> None:
    shapes = [(5, 5), (7, 0), (1, 1), (7, 3), (5, 2), (7, 7)]
    sequences, backbone = random_sequences(shapes, config.dim), trained(config)

    def gradients(batch: list[Tensor], prefix: list[int]) -> list[Tensor]:
        loss = backbone(Tokens.from_list(batch, prefix)).vectors.sin().sum()
        return list(torch.autograd.grad(loss, list(backbone.parameters())))

    together = gradients(sequences, [p for _, p in shapes])
    alone = [gradients([x], [p]) for x, (_, p) in zip(sequences, shapes, strict=True)]
    for all_at_once, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(all_at_once, torch.stack(parts).sum(0), atol=1e-4, rtol=1e-4)


def test_a_layout_serves_every_layer_and_every_call() -> None:
    """Masks that a layout made in the first call are right in the second."""
    backbone = trained(CONFIGS[1])
    tokens = Tokens.from_list(random_sequences([(9, 4), (9, 2), (5, 3)], 24), [4, 2, 3])
    first = backbone(tokens).vectors
    assert torch.equal(backbone(tokens).vectors, first)
