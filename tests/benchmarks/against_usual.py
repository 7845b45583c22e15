"""unitx beside the usual way, on the same data, machine and wall-clock time, with models of the same size.

    python tests/benchmarks/against_usual.py digits --minutes 4
    python tests/benchmarks/against_usual.py python --minutes 10

`digits`: a ViT of timm, AdamW with warm-up and cosine, padded square batches. `python`: transformers' GPT-2 with AdamW.
Both get the rows and the held-out rows that unitx's recipe uses, and the same tokens a step, and run in whichever of
fp32 and bf16 autocast makes their own step faster here. The usual models' pixels and ids are made before their clock
starts; unitx prepares its items while its clock runs.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unitx
from unitx.job import Job, build_job
from unitx.recipe import load_recipe, update


def faster_autocast(step: Callable[[bool], None]) -> bool:
    """Whether the second and third step together are faster in bf16 autocast than in fp32."""
    seconds = {}
    for autocast in (False, True):
        step(autocast)
        start = time.monotonic()
        step(autocast)
        step(autocast)
        seconds[autocast] = time.monotonic() - start
    return seconds[True] < seconds[False]


def train_usual(model: nn.Module, batches: Iterator, loss_of: Callable, minutes: float, lr: float) -> str:
    """AdamW (weight decay 0.05, betas 0.9 and 0.95), 5 % warm-up, cosine by the clock; returns the steps taken."""
    first = next(batches)

    def backward(batch: Any, autocast: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(model, batch)
        loss.backward()

    autocast = faster_autocast(lambda autocast: backward(first, autocast))
    model.zero_grad()
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    model.train()
    start, steps = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        factor = min(1.0, done / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = lr * max(factor, 1e-3)
        backward(next(batches), autocast)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return f"{steps} steps in {'bf16' if autocast else 'fp32'}"


def parameters(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


def prepared_rows(job: Job) -> tuple[list[dict], list[dict]]:
    rng = np.random.default_rng(0)
    return tuple([feed.source.row(i, rng) for i in range(len(feed.source))] for feed in (job.feeds[0], job.held_out[0]))


def shuffled(count: int, size: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(count)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


def digits(minutes: float) -> None:
    import timm

    job = build_job(update(load_recipe("digits"), minutes=minutes))
    shape = job.model.backbone.config
    labels = job.feeds[0].info.labels

    def tensors(rows: list[dict]) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.stack([row["image"] for row in rows])).float()[:, None] / 127.5 - 1
        return pixels.repeat(1, 3, 1, 1), torch.tensor([labels.index(row["label"]) for row in rows])

    (x, y), (held_x, held_y) = (tensors(rows) for rows in prepared_rows(job))
    for lr in (1e-3, 3e-3):
        torch.manual_seed(0)
        vit = timm.models.VisionTransformer(
            img_size=28, patch_size=4, num_classes=10, embed_dim=shape.dim, depth=shape.depth, num_heads=shape.heads
        )
        batches = (torch.from_numpy(rows) for rows in shuffled(len(x), job.feeds[0].rows))
        steps = train_usual(vit, batches, lambda m, i: F.cross_entropy(m(x[i]), y[i], label_smoothing=0.1), minutes, lr)
        vit.eval()
        with torch.inference_mode():
            accuracy = (vit(held_x).argmax(-1) == held_y).float().mean()
        print(f"timm ViT, AdamW {lr:g}: {parameters(vit):.2f} M, {steps}, held-out accuracy {accuracy:.4f}")
    report("digits", minutes, "digits/accuracy")


def python(minutes: float) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    job = build_job(update(load_recipe("python-source"), minutes=minutes))
    shape, text = job.model.backbone.config, job.model.processors["text"]
    rows, held = ([text.features(row["text"]) for row in part] for part in prepared_rows(job))

    def padded(items: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, items))
        ids = torch.full((len(items), longest), text.eos)
        for i, item in enumerate(items):
            ids[i, : len(item)] = torch.from_numpy(item)
        return ids, torch.arange(longest) < torch.tensor([len(item) for item in items])[:, None]

    def nats(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        ids, real = batch
        logits = model(input_ids=ids, attention_mask=real.long()).logits.float()
        return F.cross_entropy(logits[:, :-1][real[:, 1:]], ids[:, 1:][real[:, 1:]], reduction="none")

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(0)
        for places in shuffled(len(rows), job.feeds[0].rows):
            starts = [int(rng.integers(0, max(1, len(rows[i]) - text.max_tokens + 1))) for i in places]
            yield padded([rows[i][s : s + text.max_tokens] for i, s in zip(places, starts, strict=True)])

    for lr in (1e-3, 3e-3):
        torch.manual_seed(0)
        gpt = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=text.vocab_size, n_positions=text.max_tokens, n_embd=shape.dim, n_layer=shape.depth,
                n_head=shape.heads, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, tie_word_embeddings=False,
            )
        )  # fmt: skip
        steps = train_usual(gpt, batches(), lambda m, b: nats(m, b).mean(), minutes, lr)
        gpt.eval()
        total, size = 0.0, 0
        with torch.inference_mode():
            for i in range(0, len(held), 16):
                part = [item[: text.max_tokens] for item in held[i : i + 16]]
                total += float(nats(gpt, padded(part)).double().sum())
                size += sum(text.byte_length(item[1:]) for item in part)
        bits = total / math.log(2) / size
        print(f"transformers GPT-2, AdamW {lr:g}: {parameters(gpt):.2f} M, {steps}, bits per byte {bits:.4f}")
    report("python-source", minutes, "python-source/bits_per_byte")


def report(recipe: str, minutes: float, metric: str) -> None:
    """Train unitx's recipe and print its final score on the same held-out rows."""
    with tempfile.TemporaryDirectory() as folder:
        run = unitx.train(recipe, minutes=minutes, evaluations=1, out=f"{folder}/run", echo=False)
        steps = max(line["step"] for line in run.history)
        print(f"unitx {recipe}: {parameters(run.model):.2f} M, {steps} steps, {metric} {run.metrics[metric]:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("digits", "python"))
    parser.add_argument("--minutes", type=float, default=4.0)
    arguments = parser.parse_args()
    {"digits": digits, "python": python}[arguments.what](arguments.minutes)
