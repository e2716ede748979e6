"""Vowel signs, accents and joiners: they are of the letter before them, though `re` counts them as no part of a word."""

from __future__ import annotations

import itertools
import unicodedata

# The blocks of Unicode that hold all of them up to U+1FFFF; in those between are letters that would be looked at in vain.
BLOCKS = (
    range(0x300, 0x3100),
    range(0xA660, 0xAC00),
    range(0xFB00, 0x13460),
    range(0x16A00, 0x17000),
    range(0x1BC00, 0x1E960),
)
SIGNS = "\u200c\u200d" + "".join(
    character for character in map(chr, itertools.chain(*BLOCKS)) if unicodedata.category(character)[0] == "M"
)
# What is no sign at first sight is not sought among two thousand.
SIGN = rf"(?:(?![\x00-\u02ff\u3041-\u3098\u309b-\ua65f\uac00-\ufaff])[{SIGNS}])"
"""One of them, for a regular expression."""
