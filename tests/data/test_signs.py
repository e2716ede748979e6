from __future__ import annotations

import re
import unicodedata

from regard.data.signs import SIGN, SIGNS


def test_all_signs_are_there_and_found():
    signs = {chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code))[0] == "M"}
    assert set(SIGNS) == signs | set("\u200c\u200d")
    assert all(re.fullmatch(SIGN, sign) for sign in SIGNS)
    assert not re.search(SIGN, "a é 1 , 狗 が 한 Я ﷲ")
