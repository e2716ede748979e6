"""PyTorch layers over packed or padded sequences; the same code serves both."""

from __future__ import annotations

from regard.nn.attention import CrossAttention as CrossAttention, SelfAttention as SelfAttention
from regard.nn.blocks import (
    Decoder as Decoder,
    DecoderBlock as DecoderBlock,
    Encoder as Encoder,
    EncoderBlock as EncoderBlock,
)
from regard.nn.cache import KeyValueCache as KeyValueCache, LayerCache as LayerCache
from regard.nn.feedforward import Dropout as Dropout, FeedForward as FeedForward
from regard.nn.norm import RMSNorm as RMSNorm
from regard.nn.rotary import Rotary as Rotary
from regard.nn.transformer import EncoderDecoder as EncoderDecoder, Shape as Shape
