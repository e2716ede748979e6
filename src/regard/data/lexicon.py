"""Chinese and Japanese text cut into words that are known: text without spaces does not say where its words end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Han, kana and their marks of repetition and length.
UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
RUN = re.compile(f"[{UNSPACED}]+")


class Lexicon:
    """Words of scripts without spaces, of two characters or more; others are not kept.

    >>> lexicon = Lexicon(["小狗", "追", "dog"])
    >>> lexicon.words, list(lexicon.cut("小狗追猫"))
    (('小狗',), ['小狗', '追', '猫'])
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        kept = {word for word in words if len(word) > 1 and RUN.fullmatch(word)}
        self.words = tuple(sorted(kept))
        self._known = frozenset(kept)
        self._longest = max(map(len, kept), default=1)

    def cut(self, run: str) -> Iterator[str]:
        """The words of a run of such characters: at each place the longest that is known, or else one character."""
        begin = 0
        while begin < len(run):
            ends = range(min(begin + self._longest, len(run)), begin + 1, -1)
            end = next((end for end in ends if run[begin:end] in self._known), begin + 1)
            yield run[begin:end]
            begin = end


NO_WORDS = Lexicon()
