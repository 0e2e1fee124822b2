"""Texts to ids: recorded ones of CLIP, and what a user may type."""

import json

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from etils import epath

from dino_jax.weights.tokens import TextTokenizer, build_encoder, open_tokenizer
from tests.weights.clip_files import WORDS, recorded_tokens, word_tokenizer

END = 49407


@pytest.fixture(scope="module")
def recorded():
    return recorded_tokens()


@pytest.fixture(scope="module")
def pair(recorded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    (folder / "vocab.json").write_text(json.dumps(recorded["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(recorded["merges"]))
    return epath.Path(folder)


def test_ids_are_those_of_transformers(recorded, pair):
    encoder = build_encoder(recorded["vocab"], (pair / "merges.txt").read_text())
    for text in recorded["texts"]:
        assert encoder.encode(text["text"]).ids == text["huggingface_ids"], text["text"]


def test_rows_are_those_of_openai_but_for_quotes_entities_and_ligatures(recorded, pair):
    tokenizer = open_tokenizer(pair, 77, 49408, 0)
    rows = tokenizer([text["text"] for text in recorded["texts"]])
    theirs = np.array(
        [x["openai_ids"] + [0] * (77 - len(x["openai_ids"])) for x in recorded["texts"]]
    )
    other = [
        x["text"] for x, a, b in zip(recorded["texts"], rows, theirs, strict=True) if (a != b).any()
    ]
    assert [text[:8] for text in other] == ["&amp; &l", "it\u2019s a \u201c", "\ufb01ne \ufb02oor"]
    long = [len(text["huggingface_ids"]) > 77 for text in recorded["texts"]]
    assert any(long) and (rows[long][:, -1] == END).all()


def test_a_file_of_the_same_tokenizer_gives_the_same(recorded, pair, tmp_path):
    encoder = build_encoder(recorded["vocab"], (pair / "merges.txt").read_text())
    (tmp_path / "tokenizer.json").write_text(encoder.to_str())
    texts = [text["text"] for text in recorded["texts"]]
    one = open_tokenizer(pair, 77, 49408, None)(texts)
    np.testing.assert_array_equal(open_tokenizer(epath.Path(tmp_path), 77, 49408, None)(texts), one)


@pytest.fixture
def words(tmp_path):
    (tmp_path / "tokenizer.json").write_text(word_tokenizer("clip"))
    return open_tokenizer(epath.Path(tmp_path), 6, 40, None)


def ids(*names):
    return [38, *(3 + WORDS.index(name) for name in names)]


def test_texts_are_filled_up_and_cut_with_the_end_token(words):
    rows = words(["Red chair", "a photo of the teak table"])
    assert rows.dtype == np.int32
    assert rows[0].tolist() == [*ids("red", "chair"), 39, 39, 39]
    assert rows[1].tolist() == [*ids("a", "photo", "of", "the"), 39]


def test_special_tokens_that_are_typed_are_taken_out(words):
    typed = words(["red <|endoftext|> chair<|startoftext|>"])
    np.testing.assert_array_equal(typed, words(["red chair"]))


def test_siglips_texts_are_padded_with_its_pad_token(tmp_path):
    (tmp_path / "tokenizer.json").write_text(word_tokenizer("siglip"))
    rows = open_tokenizer(epath.Path(tmp_path), 6, 40, 0)(["red chair", ""])
    assert rows.tolist() == [[*ids("red", "chair")[1:], 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]


def test_ids_beyond_the_vocabulary_of_the_tower_are_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(word_tokenizer("clip"))
    with pytest.raises(ValueError, match="belongs to other weights"):
        open_tokenizer(epath.Path(tmp_path), 6, 20, None)(["red"])


@pytest.mark.parametrize("text", ["x" * 10_001, "\ud800"])
def test_what_is_no_text_is_refused(words, text):
    with pytest.raises(ValueError, match=r"characters|not a text"):
        words([text])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer.json"),
        ({"tokenizer.json": "{"}, "no tokenizer that can be used"),
        ({"tokenizer.json": "[1]"}, "no tokenizer that can be used"),
        ({"vocab.json": "{}", "merges.txt": ""}, "not CLIP's"),
        ({"vocab.json": "[", "merges.txt": ""}, "no tokenizer that can be used"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_tokenizer(epath.Path(tmp_path), 6, 40, None)


def test_a_tokenizer_without_an_end_is_refused(recorded, pair):
    encoder = build_encoder(recorded["vocab"], (pair / "merges.txt").read_text())
    from tokenizers import processors

    encoder.post_processor = processors.TemplateProcessing(single="$0", special_tokens=[])
    with pytest.raises(ValueError, match="does not mark the end"):
        TextTokenizer(encoder, 77, 49408, None)
