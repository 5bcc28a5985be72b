"""Text as characters: one's own files and WikiText-2; vocabularies, windows, and damaged files said to be so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.parity import shared
from tests.tiny import offline
from vqtk.datasets._base import Splits
from vqtk.datasets.text import Text
from vqtk.datasets.wikitext2 import WikiText2
from vqtk.errors import DataError

VERSE = "so much depends upon a red wheel barrow glazed with rain water beside the white chickens\n" * 4


def shown(splits: Splits, tokens: torch.Tensor) -> str:
    assert splits.characters
    return "".join(splits.characters[token] for token in tokens.tolist())


def failure(dataset: Text | WikiText2, root: Path) -> str:
    with pytest.raises(DataError) as raised:
        dataset.load(root)
    return str(raised.value)


def write_wikitext(root: Path, **texts: str) -> Path:
    folder = root / "wikitext2" / "wikitext-2"
    folder.mkdir(parents=True)
    for part, text in texts.items():
        (folder / f"wiki.{part}.tokens").write_text(text, encoding="utf-8")
    return folder


def test_the_windows_are_the_texts_own_characters(tmp_path: Path) -> None:
    (tmp_path / "verse.txt").write_text(VERSE)
    splits = Text(path="verse.txt", length=16).load(tmp_path)
    cut = len(VERSE) - len(VERSE) // 10
    assert len(splits.train) == cut - 16 + 1
    assert [shown(splits, window) for window in splits.train[torch.arange(len(splits.train))]] == [
        VERSE[start : start + 16] for start in range(cut - 15)
    ]
    assert [shown(splits, window) for window in splits.test[torch.arange(len(splits.test))]] == [
        VERSE[start : start + 16] for start in range(cut, len(VERSE) - 15, 16)
    ]
    assert splits.note is None


def test_the_vocabulary_is_the_most_frequent_characters_of_the_training_part(tmp_path: Path) -> None:
    text = "ccbbaaaa\U0001f600" * 20 + "\ufffd" * 9 + "z" * 300
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    splits = Text(path="t.txt", length=4, vocabulary=4, test=0.5).load(tmp_path)
    train = text[: len(text) - len(text) // 2]
    counts = Counter(train.replace("\ufffd", ""))
    assert splits.characters == "\ufffd" + "".join(sorted(counts, key=lambda c: (-counts[c], c))[:3]) == "\ufffdazb"
    assert shown(splits, splits.train[torch.tensor([6])][0]) == "aa\ufffd\ufffd"
    beyond = sum(character not in "zab" for character in text)
    assert splits.note
    assert f"{beyond} of {len(text)} characters ({100 * beyond / len(text):.2g} %)" in splits.note


def test_a_text_of_few_characters_has_a_shorter_vocabulary_and_the_same_spec(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("ab" * 50)
    dataset = Text(path="t.txt", length=4)
    assert dataset.load(tmp_path).characters == "\ufffdab"
    assert dataset.spec.shape == (4,)
    assert dataset.spec.classes == 100


@pytest.mark.parametrize(("vocabulary", "dtype"), [(256, torch.uint8), (257, torch.int32)])
def test_tokens_are_as_small_as_the_vocabulary_allows(vocabulary: int, dtype: torch.dtype, tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 3
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    dataset = Text(path="t.txt", length=8, vocabulary=vocabulary)
    splits = dataset.load(tmp_path)
    window = splits.train[torch.tensor([0, 250])]
    assert window.dtype == dtype
    assert dataset.bytes_per_item == dtype.itemsize
    assert window.max() == vocabulary - 1 if vocabulary == 257 else 255


def test_a_folder_is_read_in_order_of_name_with_the_end_of_each_file_held_out(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "sub").mkdir(parents=True)
    (corpus / ".hidden").write_text("h" * 100)
    for name, letter in (("b.md", "b"), ("a.txt", "a"), ("sub/c.tokens", "c")):
        (corpus / name).write_text(letter * 90 + letter.upper() * 10)
    (corpus / "latin.txt").write_bytes("é".encode("latin-1") * 50)
    splits = Text(path=str(corpus), length=30).load(tmp_path / "elsewhere")
    assert shown(splits, splits.train.tokens) == "a" * 90 + "b" * 90 + "c" * 90
    assert splits.test.tokens.tolist() == [0] * 30
    assert splits.note
    assert "30 of 300 characters (10 %)" in splits.note
    assert f"1 file. The first: {corpus / 'latin.txt'} is not UTF-8 text" in splits.note
    assert splits.fingerprint()["skipped"] == {"count": 1, "first": [str(corpus / "latin.txt")]}


def test_a_path_is_below_the_data_root_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, here = tmp_path / "root", tmp_path / "here"
    for folder, letter in ((root, "r"), (here, "h")):
        folder.mkdir()
        (folder / "t.txt").write_text(letter * 100)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    dataset = Text(path="t.txt", length=4)
    assert dataset.load(root).characters == "\ufffdr"
    (root / "t.txt").unlink()
    assert dataset.load(root).characters == "\ufffdh"
    assert Text(path="~/t.txt", length=4).load(root).characters == "\ufffdh"
    (here / "t.txt").unlink()
    message = failure(dataset, root)
    assert str(root / "t.txt") in message
    assert str(here / "t.txt") in message
    assert dataset.count(root) is None
    assert dataset.plan(root) == "none found yet; in memory, 1 byte a character"


def test_the_plan_counts_characters(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("ab" * 1_000_000)
    dataset = Text(path="t.txt", vocabulary=1000)
    assert dataset.count(tmp_path) == 2_000_000
    assert dataset.plan(tmp_path) == "in memory, 4 bytes a character, 2,000,000 characters = 8 MB"


@pytest.mark.parametrize(("characters", "part"), [(0, "training"), (30, "training"), (300, "test")])
def test_a_text_shorter_than_a_window_is_an_error_with_both_lengths(characters: int, part: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("x" * characters)
    message = failure(Text(path="t.txt", length=64), tmp_path)
    for word in (str(tmp_path / "t.txt"), f"has {characters} characters", f"the {part} split", "window of 64"):
        assert word in message


def test_a_file_that_is_not_utf8_is_an_error_with_the_first_wrong_byte(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"plain" * 40 + b"caf\xe9 " * 40)
    message = failure(Text(path="t.txt"), tmp_path)
    assert f"{tmp_path / 't.txt'} is not UTF-8 text: byte 203 is 0xe9" in message


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["empty", "nothing in UTF-8"])
def test_a_folder_without_text_is_an_error(content: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    if content:
        (tmp_path / "corpus" / "a.bin").write_bytes(content)
    message = failure(Text(path="corpus"), tmp_path)
    assert f"{tmp_path / 'corpus'} holds no text" in message


def test_wikitext_of_the_official_number_of_lines_has_no_note(tmp_path: Path) -> None:
    folder = write_wikitext(tmp_path, train="a b\n" * 36_718, valid="c\n", test="d a\n" * 4_358)
    for root in (tmp_path, tmp_path / "wikitext2", folder):
        splits = WikiText2(length=8).load(root)
        assert splits.note is None
        assert splits.characters == "\ufffd\n ab"
    assert shown(splits, splits.test.tokens[:8]) == "\ufffd a\n\ufffd a\n"


def test_wikitext_that_is_not_the_official_says_how(tmp_path: Path) -> None:
    write_wikitext(tmp_path, train="a b\n" * 40, valid="a b\n" * 40, test="d a\n" * 4_358)
    note = WikiText2(length=8).load(tmp_path).note
    assert note
    assert "wiki.train.tokens is a copy of wiki.valid.tokens" in note
    (tmp_path / "wikitext2" / "wikitext-2" / "wiki.valid.tokens").unlink()
    note = WikiText2(length=8).load(tmp_path).note
    assert note
    assert "wiki.train.tokens has 40 lines, the official one 36,718" in note


def test_half_a_wikitext_is_an_error_that_names_what_is_missing(tmp_path: Path) -> None:
    folder = write_wikitext(tmp_path, train="a b\n" * 40)
    assert f"{folder}: wiki.test.tokens missing" in failure(WikiText2(length=8), tmp_path)


def test_an_absent_wikitext_is_an_error_that_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    offline(monkeypatch, tmp_path)
    message = failure(WikiText2(), tmp_path)
    for word in (str(tmp_path / "wikitext2" / "wikitext-2"), "wiki.train.tokens", "wikitext-2-v1.zip", "--data-dir"):
        assert word in message
    assert capfd.readouterr() == ("", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_real_texts_are_read_whole() -> None:
    text = shared("data", "tinyshakespeare", "input.txt").read_text()
    splits = Text(path="tinyshakespeare/input.txt").load(shared("data"))
    assert len(splits.train.tokens) + len(splits.test.tokens) == len(text) == 1_115_394
    assert len(splits.characters or "") == 1 + 65
    assert splits.note is None
    assert shown(splits, splits.test[torch.tensor([1])][0]) == text[-111_539 + 128 : -111_539 + 256]
    wiki = WikiText2().load(shared("data"))
    assert "copy of wiki.valid.tokens" in (wiki.note or "")
    assert len(wiki.characters or "") == 100
