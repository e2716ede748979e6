"""Self-attention as software: one exact operator for every array, without padding."""

from __future__ import annotations

from regard._attention import attention as attention
from regard._aux import Aux as Aux, AuxOutput as AuxOutput
from regard._biases import DenseBias as DenseBias
from regard._errors import RegardError as RegardError
from regard._masks import (
    Causal as Causal,
    Dense as Dense,
    Documents as Documents,
    Global as Global,
    Lengths as Lengths,
    Mask as Mask,
    Prefix as Prefix,
    Window as Window,
)
from regard._packed import Packed as Packed
