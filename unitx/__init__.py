"""unitx: one transformer, any modality.

Tokenizers turn text, images, audio and video into sequences of vectors, one shared backbone processes them all, tasks
answer.
Names are loaded when they are used: `import unitx` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitx.batches import loader as loader
    from unitx.errors import BadItem as BadItem
    from unitx.errors import UnitxError as UnitxError
    from unitx.index import Index as Index
    from unitx.model import Model as Model
    from unitx.recipe import Recipe as Recipe
    from unitx.registry import import_plugin as import_plugin
    from unitx.registry import register_task as register_task
    from unitx.registry import register_tokenizer as register_tokenizer
    from unitx.report import evaluate as evaluate
    from unitx.sentence_encoder import SentenceEncoder as SentenceEncoder
    from unitx.trainer import Run as Run
    from unitx.training import finetune as finetune
    from unitx.training import resume as resume
    from unitx.training import train as train

__version__ = "0.1.0"

_HOMES = {
    "BadItem": "errors",
    "UnitxError": "errors",
    "Index": "index",
    "Model": "model",
    "Recipe": "recipe",
    "Run": "trainer",
    "SentenceEncoder": "sentence_encoder",
    "evaluate": "report",
    "finetune": "training",
    "import_plugin": "registry",
    "loader": "batches",
    "register_task": "registry",
    "register_tokenizer": "registry",
    "resume": "training",
    "train": "training",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unitx' has no attribute '{name}'")
    globals()[name] = value = getattr(import_module(f"unitx.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
