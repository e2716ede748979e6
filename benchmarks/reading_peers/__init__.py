"""Models of transformers that read and summarize, trained from the same records and scored by the same code as ours."""
