"""PyTorch layers over packed or padded sequences; the same code serves both."""

from __future__ import annotations

from regard.nn.attention import CrossAttention as CrossAttention
from regard.nn.attention import SelfAttention as SelfAttention
from regard.nn.blocks import (
    Decoder as Decoder,
)
from regard.nn.blocks import (
    DecoderBlock as DecoderBlock,
)
from regard.nn.blocks import (
    Encoder as Encoder,
)
from regard.nn.blocks import (
    EncoderBlock as EncoderBlock,
)
from regard.nn.cache import KeyValueCache as KeyValueCache
from regard.nn.cache import LayerCache as LayerCache
from regard.nn.cache import PrefixCache as PrefixCache
from regard.nn.cache import StateCache as StateCache
from regard.nn.captioner import Captioner as Captioner
from regard.nn.consistency import (
    consistent as consistent,
)
from regard.nn.consistency import (
    consistent_loss as consistent_loss,
)
from regard.nn.consistency import (
    twice as twice,
)
from regard.nn.copying import CopyingEncoderDecoder as CopyingEncoderDecoder
from regard.nn.distillation import (
    taught as taught,
)
from regard.nn.distillation import (
    teaching as teaching,
)
from regard.nn.encoder import TextEncoder as TextEncoder
from regard.nn.feedforward import Dropout as Dropout
from regard.nn.feedforward import FeedForward as FeedForward
from regard.nn.language import LanguageModel as LanguageModel
from regard.nn.linear import Linear as Linear
from regard.nn.ngrams import NgramBag as NgramBag
from regard.nn.norm import RMSNorm as RMSNorm
from regard.nn.patches import PatchEncoder as PatchEncoder
from regard.nn.pooling import AttentionPool as AttentionPool
from regard.nn.pretrained import (
    PretrainedEncoder as PretrainedEncoder,
)
from regard.nn.pretrained import (
    mean_pool as mean_pool,
)
from regard.nn.pretrained import (
    parameter_groups as parameter_groups,
)
from regard.nn.pretrained_reader import PretrainedReader as PretrainedReader
from regard.nn.pretrained_shape import PretrainedShape as PretrainedShape
from regard.nn.recurrent import (
    Recurrence as Recurrence,
)
from regard.nn.recurrent import (
    RecurrentDecoder as RecurrentDecoder,
)
from regard.nn.recurrent import (
    RecurrentDecoderBlock as RecurrentDecoderBlock,
)
from regard.nn.recurrent import (
    RecurrentEncoder as RecurrentEncoder,
)
from regard.nn.recurrent import (
    RecurrentEncoderBlock as RecurrentEncoderBlock,
)
from regard.nn.rotary import Rotary as Rotary
from regard.nn.transformer import EncoderDecoder as EncoderDecoder
from regard.nn.transformer import Shape as Shape
from regard.nn.watch import watch as watch
