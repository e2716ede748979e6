"""Records as a person reads them: what was given and what is expected, each in a line that is not too long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

WIDTH = 200  # characters of a line
NONE = "-"


def shown(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """The fields of a checked record as lines with their names: a passage around its answer, roles in brackets.

    >>> shown({"words": ["Dogs", "bark"], "predicates": [1], "roles": [["B-A0", "B-V"]]})
    [('words', 'Dogs bark'), ('roles', '[A0 Dogs] [V bark]')]
    >>> shown({"text": "It rains.", "labels": ["English", "weather"]})
    [('text', 'It rains.'), ('labels', 'English | weather')]
    """
    said_elsewhere = {"places"}
    if "roles" in fields:
        said_elsewhere.add("predicates")
    if fields.get("targets") == [fields.get("target")]:
        said_elsewhere.add("targets")
    return [
        (name, line)
        for name, value in fields.items()
        if name not in said_elsewhere and value is not None
        for line in _lines(name, value, fields)
    ]


def shorten_line(text: str, begin: int = 0, end: int = 0) -> str:
    """Text in one line, cut where it is long, but not between the characters `begin` and `end`.

    >>> shorten_line("one " * 100 + "two", 400, 403)[-11:]
    'one one two'
    """
    if len(text) > WIDTH:
        first = max(0, min((begin + end - WIDTH) // 2, len(text) - WIDTH))
        last = first + WIDTH
        text = "..." * (first > 0) + text[first:last] + "..." * (last < len(text))
    return " ".join(text.split())


def _lines(name: str, value: Any, fields: dict[str, Any]) -> list[str]:
    if name == "roles":
        return [_bracketed(fields["words"], tags) for tags in value] or [NONE]
    if name == "words":
        return [shorten_line(" ".join(value))]
    if name == "answers":
        return [shorten_line(_joined([answer["text"] for answer in value]))]
    if name == "context" and fields.get("answers"):
        first = fields["answers"][0]
        return [shorten_line(value, first["start"], first["start"] + len(first["text"]))]
    if isinstance(value, str):
        return [shorten_line(value)]
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return [shorten_line(_joined(value))]
    return [shorten_line(json.dumps(value, ensure_ascii=False, default=str))]


def _joined(texts: Sequence[str]) -> str:
    return " | ".join(dict.fromkeys(texts)) or NONE


def _bracketed(words: Sequence[str], tags: Sequence[str]) -> str:
    """Words with their roles, as a labeller prints them."""
    parts: list[tuple[str, str]] = []
    for word, tag in zip(words, tags, strict=True):
        if tag.startswith("I-"):
            role, text = parts.pop()
            parts.append((role, f"{text} {word}"))
        else:
            parts.append((tag[2:], word))
    return " ".join(f"[{role} {text}]" if role else text for role, text in parts)
