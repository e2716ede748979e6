"""The ids that a model of transformers gets: ours, with the marks that its sequences need around and between texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from regard.data.pretrained_tokenizer import PretrainedTokenizer
from regard.data.tokenizer import Tokenizer

MARKS = 2  # around the predicate, where a model does not know types of tokens


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's ids, and behind them those that it lacks."""

    tokenizer: Tokenizer
    pad: int
    size: int
    """Of the embedding, with everything that is added."""
    typed: bool
    """Whether the model knows types of tokens."""
    begin: int
    end: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, architecture: str, init: Path | None) -> Vocabulary:
        """For a new model of an architecture, or for the one in the folder `init`, whose tokenizer this is."""
        if init is not None:
            config: Any = transformers.AutoConfig.from_pretrained(init)
            typed = getattr(config, "type_vocab_size", 0) > 1
            size = config.vocab_size + (0 if typed else MARKS)
            return cls(tokenizer, config.pad_token_id or 0, size, typed, tokenizer.bos, tokenizer.eos)
        pad = len(tokenizer)
        return cls(tokenizer, pad, pad + 1 + MARKS, architecture == "bert", tokenizer.bos, tokenizer.eos)

    @property
    def marks(self) -> tuple[int, int]:
        """What stands before and behind a predicate."""
        return self.size - 2, self.size - 1

    def join(self, first: Sequence[int], second: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """One sequence of one or two texts' ids, `<s> first </s> second </s>` or as a pretrained model knows it, and the type of each id."""
        if isinstance(self.tokenizer, PretrainedTokenizer):
            return self.tokenizer.join(first, second)
        ids, types = [self.begin, *first, self.end], [0] * (len(first) + 2)
        if second is not None:
            ids, types = [*ids, *second, self.end], [*types, *[1] * (len(second) + 1)]
        return ids, types
