"""Layers for Keras 3 on `regard.attention`, for every backend of Keras whose arrays regard computes.

>>> import keras
>>> model = keras.Sequential([regard.keras.EncoderBlock(4, hidden_dim=64), regard.keras.MeanPooling()])
>>> tuple(model(np.ones((2, 7, 32), "float32")).shape)
(2, 32)
"""

from regard.keras.attention import CrossAttention, SelfAttention
from regard.keras.blocks import DecoderBlock, EncoderBlock
from regard.keras.feedforward import FeedForward
from regard.keras.multihead import MultiHeadAttention
from regard.keras.pooling import MeanPooling
from regard.keras.weights import load_multihead, load_state_dict, state_dict

__all__ = [
    "MultiHeadAttention",
    "SelfAttention",
    "CrossAttention",
    "FeedForward",
    "EncoderBlock",
    "DecoderBlock",
    "MeanPooling",
    "load_multihead",
    "load_state_dict",
    "state_dict",
]
