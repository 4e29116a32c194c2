"""How many tokens a byte of the corpus holds, by a sample: what turns a size in tokens into a share."""

from collections.abc import Sequence

from data_prep.documents import Document, Piece, read_documents
from data_prep.sources import CorpusConfig
from data_prep.streams import compression_of
from data_prep.tokenizer import load_tokenizer

# So many pieces, spread evenly over the corpus, and so much of each: 4 MiB, 0.5 CPU seconds.
_PIECES = 16
_SAMPLE_BYTES = 1 << 18


def tokens_per_byte(pieces: Sequence[Piece], corpus: CorpusConfig) -> float:
    """Return the tokens, end-of-text included, per byte of the corpus; 0 if the sample has no text.

    A byte is one of the file for plain JSON lines, one of text for every other kind.
    """
    step = max(1, len(pieces) // _PIECES)
    tokens = total = 0
    for piece in pieces[::step][:_PIECES]:
        found, taken = _sample(piece, corpus)
        tokens, total = tokens + found, total + taken
    return tokens / total if total else 0.0


def _sample(piece: Piece, corpus: CorpusConfig) -> tuple[int, int]:
    """Return the tokens of the first documents of a piece, and the bytes that they are of."""
    encode = load_tokenizer().encode_array
    lines = corpus.kind == "jsonl" and compression_of(piece.path) is None
    if lines:
        piece = Piece(piece.path, piece.start, min(piece.stop, piece.start + _SAMPLE_BYTES))
    tokens = taken = 0
    for document in read_documents(piece, corpus, _SAMPLE_BYTES):
        if isinstance(document, Document):
            text = document.text[:_SAMPLE_BYTES]
            tokens += len(encode(text)) + 1
            taken += len(text.encode())
        if not lines and taken >= _SAMPLE_BYTES:
            break
    return tokens, piece.stop - piece.start if lines else taken
