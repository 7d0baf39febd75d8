"""Names that a run's tokenizer may have in its folders. The name shows the kind. Imports no tokenizer library."""

MODEL, JSON = "tokenizer.model", "tokenizer.json"
FILES = (MODEL, JSON)
