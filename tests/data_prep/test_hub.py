"""The path hf://datasets/…: the presets against a server that answers as the Hugging Face hub does."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import documents, hashes

from conf.exits import Exit
from data_prep import finalize

Make = Callable[..., Path]
SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1", "workers=1"]
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The requests of the hub's API that reading takes (huggingface_hub 2.4, hf_file_system.py)."""

    root: Path  # root/OWNER/NAME/… are the repositories

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path):
            self._tree(found[1], found[2])
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/revision/.*)?", path):
            self._json({"_id": "1", "id": found[1], "sha": _COMMIT, "tags": [], "private": False})
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.*)", path):
            self._content(self.root / found[1] / found[2])
        else:
            self.send_error(404)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", unquote(self.path))
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert found
        files = [self.root / found[1] / path for path in asked["paths"]]
        self._json([self._entry(self.root / found[1], file) for file in files if file.exists()])

    def _tree(self, repository: str, folder: str) -> None:
        if not (self.root / repository / folder).is_dir():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        files = sorted((self.root / repository / folder).iterdir())
        self._json([self._entry(self.root / repository, file) for file in files])

    def _entry(self, repository: Path, file: Path) -> dict:
        path = str(file.relative_to(repository))
        if file.is_dir():
            return {"type": "directory", "oid": "0" * 40, "path": path, "size": 0}
        content = file.read_bytes()
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return {
            "type": "file",
            "oid": hashlib.sha1(content).hexdigest(),
            "path": path,
            "size": len(content),
            "lfs": lfs,
        }

    def _content(self, file: Path) -> None:
        content = file.read_bytes()
        first, last = 0, len(content) - 1
        if asked := self.headers.get("Range"):
            first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        piece = content[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(piece)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(piece) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", _COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(piece)

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Run a hub whose repositories lie in tmp_path/hub; yield the environment that leads there."""
    handler = type("HubHere", (Hub,), {"root": tmp_path / "hub"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        server.shutdown()


def prepared(preset: str, output: Path, hub: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_prep.prepare", f"corpus={preset}", f"output={output}", *SMALL]
    return subprocess.run(command, env=hub, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "folder", "name"),
    [
        ("tinystories", "roneneldan/TinyStories/data", "train-{n:05d}-of-00002.parquet"),
        ("fineweb_edu_10bt", "HuggingFaceFW/fineweb-edu/sample/10BT", "{n:03d}_00000.parquet"),
    ],
)
def test_a_preset_of_the_hub_gives_the_bytes_of_its_files_on_disk(
    preset: str, folder: str, name: str, *, hub: dict[str, str], make: Make, tmp_path: Path
):
    place = tmp_path / "hub" / folder
    place.mkdir(parents=True)
    paths = [place / name.format(n=n) for n in range(2)]
    for n, path in enumerate(paths):
        pq.write_table(pa.table({"text": documents(60, seed=n), "url": ["u"] * 60}), path, row_group_size=25)
    (place / "README.md").write_text("not of the corpus")
    done = prepared(preset, tmp_path / "remote", hub)
    assert done.returncode == Exit.OK, done.stderr
    assert "120 were read" in done.stdout  # not what the preset knows of the whole corpus
    finalize.main([f"output={tmp_path}/remote"])
    local = make(paths, f"corpus.name={preset}", name="local", kind="parquet")
    assert hashes(tmp_path / "remote") == hashes(local)


@pytest.mark.slow
def test_a_repository_without_the_files_is_one_line(hub: dict[str, str], tmp_path: Path):
    (tmp_path / "hub/Skylion007/openwebtext").mkdir(parents=True)
    done = prepared("openwebtext", tmp_path / "data", hub)
    assert (done.returncode, done.stderr.count("\n")) == (Exit.DATASET, 1), done.stderr
    assert "hf://datasets/Skylion007/openwebtext" in done.stderr
