"""Families of published models: what their config.json means, and which of their tensors our modules are made of."""

from unitx.families import ast as ast
from unitx.families import bert as bert
from unitx.families import clip as clip
from unitx.families import gpt2 as gpt2
from unitx.families import llama as llama
from unitx.families import modernbert as modernbert
from unitx.families import timm as timm
from unitx.families import videomae as videomae
from unitx.families import vit as vit
from unitx.families import whisper as whisper
