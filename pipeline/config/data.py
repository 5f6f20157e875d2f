"""The data section of a run's settings: where examples come from; for text, how it becomes tokens."""

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pipeline.entries.texts import KINDS, TEXT, TEXT_FIELD
from pipeline.entries.vectors import VECTORS, Vectors
from pipeline.errors import RequestError, plain_name, require

FORMATS = (*TEXT, "shards", *VECTORS)
KINDS_ASKED = ("auto", *KINDS)
LARGEST = 10**15
"""No amount of anything is larger."""

if TYPE_CHECKING:
    DataFormat: TypeAlias = str
    TextKind: TypeAlias = str
else:
    DataFormat, TextKind = Literal[FORMATS], Literal[KINDS_ASKED]


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from; for text, how it becomes tokens."""

    name: str = "sotu"
    """Name of the source, shown in reports and used for its cache folder."""
    format: DataFormat = "sotu"
    """Text: sotu (speeches of the installed package of that name), text (files of path or repo, see kind), or shards (a
    folder that was prepared before). Vectors with classes: digits (scikit-learn's); multi_index (generated; paper, D.2:
    1000 training and 10 000 test points) and multi_index_published (10 000 and 1000, as the published code has it);
    mnist, fashion_mnist, cifar10 and tiny_imagenet, from path, else where the system has them, else from the hub; or
    vectors (files of path)."""
    path: str = ""
    """File or glob to read (text), the prepared folder (shards), or vectors: an .npz, parquet files, a folder of IDX or
    of CIFAR-10's .bin files."""
    repo: str = ""
    """Dataset repository on the Hugging Face hub, read instead of path."""
    revision: str = "main"
    """Branch, tag or commit of repo; resolved once and recorded."""
    files: str = "**"
    """Glob of the files of repo that hold the text."""
    kind: TextKind = "auto"
    """What all files are, whatever their suffix: text (UTF-8 documents parted by blank lines), jsonl (a JSON object per
    line) or parquet. auto: by suffix (.txt, .jsonl, .json, .parquet and the like). .zst and .gz are unpacked."""
    text_field: str = TEXT_FIELD
    """Field or column that holds a document's text, in jsonl and parquet; content.body: body within content."""
    bad_lines: Literal["refuse", "skip"] = "refuse"
    """Lines that are not UTF-8, or in jsonl not JSON. skip: leave them out, and say how many they were."""
    max_document: int | str = 32_000_000
    """Bytes of the largest document, such as 200M; larger ones are refused, since memory must hold them a few times
    over."""
    file_seed: int = 0
    """Seed of the order in which the files of repo are taken."""
    tokens: int | str | None = None
    """Prepared: training tokens to keep, such as 1.4B, cut at a document's end; null: all. Streaming has no such
    end."""
    tokenizer: str = "bpe"
    """bpe: a byte-level BPE of model.vocab_size entries, trained on training documents; or a tokenizer.json; or a model
    repository on the hub, such as EleutherAI/pythia-14m, that has one."""
    validation_fraction: float = 0.05
    """Share of the documents, chosen by their hash, kept for validation; of vectors, where files have no test part,
    share of the examples."""
    label_noise: float = 0.0
    """Vectors: share of the training examples whose class is replaced by one drawn uniformly, the same in every run."""
    normalize: Literal["all", "feature", "none"] = "all"
    """Files of vectors are shifted and scaled to mean 0 and variance 1 over the training examples: as one number (all;
    images by colour channel), each feature by itself, or not."""
    d_in: int | None = None
    """Files of vectors: values per example. Found in the files of path, and recorded."""
    n_classes: int | None = None
    """Files of vectors: classes. Found in the files of path, and recorded."""
    n_train: int | None = None
    """Files of vectors: examples to train on. Found in the files of path, and recorded."""
    mode: Literal["prepared", "stream"] = "prepared"
    """prepared: training reads token shards. stream: it reads and tokenizes the files while it goes."""
    lanes: int = 8
    """Streaming: parallel streams of documents, a divisor of global_batch; fixed, so that the order of samples does not
    depend on the number of devices, which divides it."""
    era: int = 512
    """Streaming: windows that a lane reads ahead and shuffles as one."""
    workers: int = 0
    """Processes that read and tokenize; 0: in preparing one per core, in streaming one per device."""
    write_through: str = ""
    """Streaming: folder for token shards of what was read, which --data FOLDER can train on later."""
    stall_seconds: float = 600.0
    """Streaming: a run ends when its source gives nothing for so long."""
    license: str = ""
    """Licence of the text, carried into the manifest."""
    citation: str = ""
    """Whom to cite for the text, carried into the manifest."""

    def __post_init__(self) -> None:
        for key in ("tokens", "max_document"):
            if isinstance(text := getattr(self, key), str):
                object.__setattr__(self, key, _amount(f"data.{key}", text))

    @property
    def vectors(self) -> Vectors | None:
        """The data set of vectors with classes that it names, with what was `found` in its files; None for text."""
        entry = VECTORS.get(self.format)
        if entry is None or self.d_in is None or self.n_classes is None or self.n_train is None:
            return entry
        return dataclasses.replace(entry, d_in=self.d_in, n_classes=self.n_classes, n_train=self.n_train)

    def found(self) -> "DataConfig":
        """With what the files of `path` say, where they hold vectors and nobody has looked yet. Raises
        `RequestError`."""
        entry = VECTORS.get(self.format)
        if entry is None or not self.path or None not in (self.d_in, self.n_classes, self.n_train):
            return self
        from pipeline.vectors.find import shape  # not for text, which needs no numpy yet

        asked = self.validation_fraction != DataConfig.validation_fraction
        known = {"d_in": entry.d_in, "n_classes": entry.n_classes}
        return dataclasses.replace(self, **shape(self.path, self.validation_fraction, asked=asked, **known)._asdict())

    def check(self) -> None:
        """Raises `RequestError` for the first setting that cannot be."""
        require(self.format in FORMATS, f"--data.format: expected {' or '.join(FORMATS)}, got {self.format!r}")
        require(self.kind in KINDS_ASKED, f"--data.kind: expected {' or '.join(KINDS_ASKED)}, got {self.kind!r}")
        require(0 < self.validation_fraction < 1, "--data.validation_fraction must be between 0 and 1")
        require(not (self.path and self.repo), "--data.path and --data.repo exclude each other: give one")
        require(self.format != "text" or self.path or self.repo, "--data.format text needs --data.path or --data.repo")
        require(
            self.format == "text" or not self.repo, f"--data.repo is read with --data.format text, not {self.format}"
        )
        for name in ("shards", "vectors"):
            require(self.format != name or self.path, f"--data.format {name} needs --data.path")
        require(0 <= self.label_noise <= 1, f"--data.label_noise must be 0..1, got {self.label_noise:g}")
        require(not self.label_noise or self.vectors, "--data.label_noise is for vectors with classes")
        owner, _, name = self.repo.partition("/")
        require(not self.repo or (plain_name(owner) and plain_name(name)),
                 f"--data.repo must be OWNER/NAME, got {self.repo!r}")  # fmt: skip
        require(
            plain_name(self.name) and len(self.name.encode()) <= 200,
            f"--data.name must be a plain folder name of at most 200 bytes, got {self.name!r}",
        )
        require(self.tokens is None or _whole(self.tokens, LARGEST), "--data.tokens must be positive, at most 1000T")
        for key, most in (("max_document", 2**31), ("lanes", 10**6), ("era", 10**6)):
            require(_whole(value := getattr(self, key), most), f"--data.{key} must be 1 to {most}, got {value}")
        require(
            self.workers == 0 or _whole(self.workers, 10**4), f"--data.workers must be 0 to 10000, got {self.workers}"
        )
        require(
            0 < self.stall_seconds <= 1e9,
            f"--data.stall_seconds must be positive and at most 1e9, got {self.stall_seconds:g}",
        )
        if self.mode == "stream":
            require(self.format in TEXT, f"--data.mode stream reads text, not {self.format}")
            require(self.tokenizer != "bpe", "--data.mode stream needs a ready tokenizer: give --data.tokenizer")
        require(self.mode == "stream" or not self.write_through, "--data.write_through is for --data.mode stream")


def _whole(value: object, most: int) -> bool:
    return isinstance(value, int) and 1 <= value <= most


def _amount(key: str, text: str) -> int:
    """``"1.4B"`` -> 1 400 000 000; also K, M and T, plain numbers and 1.4e9."""
    number = re.fullmatch(r"\s*([\d_.]+(?:e\+?\d+)?)\s*([KMBT]?)\s*", text, re.IGNORECASE)
    try:
        if number is None:
            raise ValueError
        value = float(number[1]) * {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[number[2].upper()]
        return round(value)
    except (ValueError, OverflowError):
        raise RequestError(f"--{key}: expected a number such as 1.4B or 300M, got {text!r}") from None
