"""GPT-2 in unitx beside transformers: the same weights, trained on and continuing the same texts, in one run.

    python tests/benchmarks/gpt2.py

GPT-2 small with drawn weights (the time does not depend on them) and a vocabulary made from the texts, which are
docstrings of Python's own library, cut to at most 1,000 characters. A training step is forward, loss, backward and
fused AdamW in bf16 autocast or fp32, on batches made before; theirs are padded to the longest text, as by its collator.
Generation is greedy, with key/value caches. Rounds alternate; the ratio is that of the medians, its spread that of
rounds side by side.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from in_turn import DEVICE, compared
from minilm import docstrings

import tokenizers
import unitx

BATCH, BATCHES = (64, 4) if DEVICE == "cuda" else (8, 1)
PROMPTS, NEW_TOKENS = 32, 64


def make_folder(folder: Path, texts: list[str]) -> hf.GPT2LMHeadModel:
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(texts, vocab_size=8_000, show_progress=False, special_tokens=["<|endoftext|>"])
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = hf.GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **ends)
    model = hf.GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return model.to(DEVICE)


def their_batches(tokenizer: Any, texts: list[str]) -> list[dict[str, torch.Tensor]]:
    collator = hf.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    groups = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    return [collator([tokenizer(text) for text in group]).to(DEVICE) for group in groups]


def steps(model: torch.nn.Module, batches: list[Any], loss_of: Callable[[Any], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        model.train()
        for batch in batches:
            loss_of(batch).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def main() -> None:
    texts = docstrings()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = make_folder(folder, texts)
        tokenizer = hf.AutoTokenizer.from_pretrained(folder, padding_side="left", pad_token="<|endoftext|>")
        ours = unitx.Model.from_pretrained(folder, DEVICE)
        shown = texts[: BATCH * BATCHES]
        (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in shown))
        our_batches = list(unitx.loader(ours, folder / "texts.jsonl", 8_192 if DEVICE == "cuda" else 2_048, workers=0))
    padded = their_batches(tokenizer, shown)
    prompts = [text[:100] for text in texts[:PROMPTS]]

    def generate() -> torch.Tensor:
        asked = tokenizer(prompts, return_tensors="pt", padding=True).to(DEVICE)
        theirs.eval()
        return theirs.generate(**asked, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)

    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        ours.compute_dtype = dtype

        def their_loss(batch: Any, dtype: torch.dtype = dtype) -> torch.Tensor:
            with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
                return theirs(**batch).loss

        run, run_ours = steps(theirs, padded, their_loss), steps(ours, our_batches, lambda batch: ours(batch)[0])
        print(f"training, {name}: {compared(run, run_ours, len(shown), 'texts')}", flush=True)
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        ours.compute_dtype = dtype
        theirs.to(dtype)
        generate_ours = partial(ours.generate, prompts, max_tokens=NEW_TOKENS, temperature=0)
        print(f"generation, {name}: {compared(generate, generate_ours, PROMPTS * NEW_TOKENS, 'tokens')}", flush=True)


if __name__ == "__main__":
    main()
