"""Streams: text read and tokenized while training goes on."""
