"""From files of text to batches of token ids: readers, vocabulary, storage, packing by a budget of tokens."""
