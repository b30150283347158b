"""Text to token ids: one file a kind of vocabulary, the table of pre-tokenizers, and the tokens that are no text."""
