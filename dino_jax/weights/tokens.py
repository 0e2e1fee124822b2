"""Texts to token ids, by the tokenizer that lies beside the weights; needs the extra `text`.

tokenizer.json, or vocab.json and merges.txt of CLIP. No vocabulary comes with this package.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from dino_jax.foreign.files import read_bytes
from dino_jax.foreign.json_text import parse_json

TOKENIZER = "tokenizer.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
MOST_BYTES = 1 << 27  # of a file; those of 256,000 tokens have 34 MB
MOST_CHARACTERS = 10_000  # of a text
# Parts of a text that are never merged with each other (arXiv:2103.00020, Section 2.4, and the code
# of CLIP): English endings, runs of letters, single digits, runs of anything else.
_PARTS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


def import_tokenizers() -> Any:
    """Imports the package of the extra `text`.

    Raises:
      ValueError: if it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            f"text queries need tokenizers ({error}): pip install 'dino_jax[text]'"
        ) from error
    return tokenizers


def tokenizer_files(folder: epath.Path) -> list[epath.Path]:
    """Files of a tokenizer in a folder; [] without any."""
    if (folder / TOKENIZER).exists():
        return [folder / TOKENIZER]
    pair = [folder / VOCABULARY, folder / MERGES]
    return pair if all(file.exists() for file in pair) else []


class TextTokenizer:
    """Rows of ids, all of the length that a text tower takes."""

    def __init__(self, encoder: Any, length: int, vocabulary: int, pad_token: int | None):
        """Takes a tokenizer of the package `tokenizers`.

        Args:
          encoder: it adds the tokens at the beginning and end of a text itself.
          length: N, ids of a row.
          vocabulary: ids are below.
          pad_token: fills rows up; None: the end token.

        Raises:
          ValueError: if it adds no end token.
        """
        encoder.no_truncation()
        encoder.no_padding()
        empty = encoder.encode("").ids
        if not empty:
            raise ValueError("the tokenizer does not mark the end of a text")
        self._encoder, self._length, self._vocabulary = encoder, length, vocabulary
        self._end = empty[-1]
        self._pad = self._end if pad_token is None else pad_token
        added = encoder.get_added_tokens_decoder().values()
        self._special = [token.content for token in added if token.special]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[n, N] int32 ids of n texts.

        Special tokens that somebody has typed are taken out. A text that is too long is cut, and
        its last id is the end token.

        Raises:
          ValueError: if a text is much too long, or no text, or an id is none of the tower's.
        """
        rows = np.full((len(texts), self._length), self._pad, np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = self._encode(text)
            if len(ids) > self._length:
                ids = [*ids[: self._length - 1], self._end]
            row[: len(ids)] = ids
        if rows.size and rows.max() >= self._vocabulary:
            raise ValueError(
                f"the tokenizer gives the id {rows.max()}, the tower has {self._vocabulary:,} "
                "tokens: it belongs to other weights"
            )
        return rows

    def _encode(self, text: str) -> list[int]:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(
                f"a text may have {MOST_CHARACTERS:,} characters, this has {len(text):,}"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{text[:50]!r} is not a text: {error}") from error
        for token in self._special:
            text = text.replace(token, " ")
        return self._encoder.encode(text).ids


def open_tokenizer(
    folder: epath.Path, length: int, vocabulary: int, pad_token: int | None
) -> TextTokenizer:
    """Reads the tokenizer of a folder; the others as `TextTokenizer` takes them.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged or of another kind, or the extra `text` is not installed.
    """
    files, tokenizers = tokenizer_files(folder), import_tokenizers()
    if not files:
        raise FileNotFoundError(
            f"{folder} has no {TOKENIZER}, nor {VOCABULARY} and {MERGES}; download it from where "
            "the weights come from, to lie beside them, and import them again"
        )
    contents = [read_bytes(file, MOST_BYTES) for file in files]
    try:
        if len(files) == 1:
            encoder = tokenizers.Tokenizer.from_str(contents[0].decode())
        else:
            encoder = build_encoder(parse_json(contents[0]), contents[1].decode())
        return TextTokenizer(encoder, length, vocabulary, pad_token)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(f"{files[0]} is no tokenizer that can be used: {error}") from error


def build_encoder(vocabulary: Any, merges: str) -> Any:
    """CLIP's byte pairs from its two files: lower case, words end with </w>.

    Args:
      vocabulary: ids of tokens.
      merges: pairs of tokens, a line each, after a first line with the version.

    Raises:
      ValueError: if they do not fit together.
    """
    if not isinstance(vocabulary, dict) or not {_BEGIN, _END} <= vocabulary.keys():
        raise ValueError(f"{VOCABULARY} is not CLIP's: it has no {_BEGIN} and {_END}")
    tokenizers = import_tokenizers()
    lines = [line.split() for line in merges.splitlines() if not line.startswith("#version")]
    pairs = [tuple(line) for line in lines if line]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{MERGES} has a line that is no pair")
    model = tokenizers.models.BPE(
        vocabulary, pairs, unk_token=_END, continuing_subword_prefix="", end_of_word_suffix="</w>"
    )
    encoder = tokenizers.Tokenizer(model)
    normalizers, pieces = tokenizers.normalizers, tokenizers.pre_tokenizers
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    encoder.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    parts = pieces.Split(tokenizers.Regex(_PARTS), behavior="removed", invert=True)
    encoder.pre_tokenizer = pieces.Sequence([parts, pieces.ByteLevel(add_prefix_space=False)])
    encoder.add_special_tokens([_BEGIN, _END])
    ends = [(token, vocabulary[token]) for token in (_BEGIN, _END)]
    encoder.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{_BEGIN} $0 {_END}", special_tokens=ends
    )
    return encoder
