"""Small corpora with the things that go wrong in large ones."""

import hashlib
import json
import random
from pathlib import Path

_WORDS = "the of and a in to it is was I for on you he be with as by at have are this not but"


def documents(count: int, seed: int = 0) -> list[str]:
    """Return distinct documents of 1 to about 400 words, some of them in other scripts."""
    chance = random.Random(seed)
    texts = []
    for number in range(count):
        words = chance.choices(_WORDS.split(), k=chance.randint(1, 400))
        texts.append(
            f"{number} {' '.join(words)}\n{chance.choice(['naïve', '北京大学', '🙂🙃', 'x = 1;'])}\n"
        )
    return texts


def as_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the shards and the index."""
    paths = [*folder.glob("*.tar"), folder / "index.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
