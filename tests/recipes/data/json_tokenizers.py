"""Small tokenizer.json files of the kinds that Hugging Face has, trained here, for tests."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [f"the {colour} cat {verb} upon the mat, été" for colour in ("black", "white", "grey") for verb in ("sat", "slept", "stood")] * 5
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def byte_level(special: tuple[str, ...] = ROBERTA, text: list[str] = TEXT, size: int = 300) -> Tokenizer:
    """Return a byte-level BPE, as GPT-2 and RoBERTa have it, with these special symbols."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False)
    )
    return tokenizer


def roberta(text: list[str] = TEXT, size: int = 300) -> Tokenizer:
    """Return a tokenizer with RoBERTa's ids: `<mask>` is the last symbol."""
    tokenizer = byte_level(ROBERTA[:-1], text, size - 1)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def bert(text: list[str] = TEXT, size: int = 70) -> Tokenizer:
    """Return a WordPiece tokenizer of lower case, with BERT's special symbols."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(text, trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(BERT), show_progress=False))
    return tokenizer


def unigram(text: list[str] = TEXT, size: int = 60) -> Tokenizer:
    """Return a unigram tokenizer with `<unk>` first, as T5 has it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<unk>", "<s>", "<pad>", "</s>", "<mask>"]
    tokenizer.train_from_iterator(
        text, trainers.UnigramTrainer(vocab_size=size, unk_token="<unk>", special_tokens=special, show_progress=False)
    )
    return tokenizer


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write tokenizer.json into the folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"
