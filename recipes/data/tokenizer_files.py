"""Names that a run's tokenizer may have in its folders. The name shows the kind. Imports no tokenizer library."""

MODEL, JSON = "tokenizer.model", "tokenizer.json"
FILES = (JSON, MODEL)
"""The first that is there counts."""
