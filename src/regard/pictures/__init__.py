"""Pictures of attention: self-contained files that need no network and no notebook."""

from __future__ import annotations

from regard.data.words import merge_pieces_to_words
from regard.pictures._captions import CaptionPicture
from regard.pictures._endings import ending as ending
from regard.pictures._patches import PatchPicture
from regard.pictures._picture import AttentionPicture, attention_page

__all__ = ["AttentionPicture", "CaptionPicture", "PatchPicture", "attention_page", "merge_pieces_to_words"]
