"""Writes small files in the published layouts of GLUE: names, headers, columns and the order of columns are those of gluebenchmark.com."""

from pathlib import Path

NUM_TRAIN, NUM_VALID, NUM_TEST = 12, 4, 3
COUNTS = {"train": NUM_TRAIN, "dev": NUM_VALID, "test": NUM_TEST}
PARSES = ["sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"]
MRPC_IDS = ["#1 ID", "#2 ID", "#1 String", "#2 String"]
MNLI_HEAD = ["index", "promptID", "pairID", "genre", *PARSES, "sentence1", "sentence2"]
STSB_HEAD = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2"]
HEADERS = {
    "SST-2": {"train": ["sentence", "label"], "test": ["index", "sentence"]},
    "CoLA": {"train": ["source", "label", "mark", "sentence"], "test": ["index", "sentence"]},
    "MRPC": {"train": ["Quality", *MRPC_IDS], "test": ["index", *MRPC_IDS]},
    "STS-B": {"train": [*STSB_HEAD, "score"], "test": STSB_HEAD},
    "QQP": {"train": ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], "test": ["id", "question1", "question2"]},
    "MNLI": {"train": [*MNLI_HEAD, "label1", "gold_label"], "test": MNLI_HEAD},
    "QNLI": {"train": ["index", "question", "sentence", "label"], "test": ["index", "question", "sentence"]},
    "RTE": {"train": ["index", "sentence1", "sentence2", "label"], "test": ["index", "sentence1", "sentence2"]},
}
"""Folder -> columns of the labelled files, and of the test file."""
LABELS = {
    "MNLI": ["entailment", "neutral", "contradiction"],
    "QNLI": ["entailment", "not_entailment"],
    "RTE": ["not_entailment", "entailment"],
    "STS-B": ["5.000", "2.5", "0.750", "3"],
}
TEXTS = {"sentence", "sentence1", "sentence2", "question", "question1", "question2", "#1 String", "#2 String"}
LABEL_COLUMNS = {"label", "gold_label", "score", "is_duplicate", "Quality"}


def text_of(column: str, split: str, row: int) -> str:
    """Return the text of a cell. Quotes and commas in it are plain characters."""
    return f'the "{column.strip("#")} , {split} {row}'


def write_glue(folder: Path) -> Path:
    """Write all of GLUE's eight tasks below `folder`, and return it."""
    for task, headers in HEADERS.items():
        names = [("train", "train"), ("dev", "dev"), ("test", "test")]
        if task == "MNLI":
            names = [("train", "train"), *((f"{kind}_{part}", kind) for kind in ("dev", "test") for part in ("matched", "mismatched"))]
        (folder / task).mkdir(parents=True)
        for name, kind in names:
            header = headers["test" if kind == "test" else "train"]
            if name.startswith("dev_"):  # the validation files of MNLI have the labels of five annotators
                header = [*MNLI_HEAD, *(f"label{number}" for number in range(1, 6)), "gold_label"]
            write_rows(folder / task / f"{name}.tsv", task, header, name, COUNTS[kind])
    return folder


def write_rows(file: Path, task: str, header: list[str], split: str, count: int) -> None:
    """Write a file of `count` rows. MRPC's begin with a byte order mark; CoLA's labelled ones have no header."""
    labels = LABELS.get(task, ["0", "1"])
    rows = [[_cell(column, split, row, labels) for column in header] for row in range(count)]
    lines = rows if task == "CoLA" and "mark" in header else [header, *rows]
    text = "".join("\t".join(line) + "\n" for line in lines)
    file.write_text(text, encoding="utf-8-sig" if task == "MRPC" else "utf-8")


def _cell(column: str, split: str, row: int, labels: list[str]) -> str:
    if column in TEXTS:
        return text_of(column, split, row)
    return labels[row % len(labels)] if column in LABEL_COLUMNS else f"{column}{row}"
