"""What a stranger could put into a run directory, and that it harms nobody."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from peak_memory import peak_kibibytes

from conf.exits import CorruptError, NoCheckpointError, RefusedError
from faults import cases
from pretrain.storage import commit, durable, manifest

_MOST_SECONDS = 5  # of CPU: a slow core decodes the largest of them in 2.5
_SECRET = b"outside the run directory"
assert len(_SECRET) == 25
_SHA = hashlib.sha256(_SECRET).hexdigest()
BODY = {
    "step": 2,
    "run_id": "r",
    "world_size": 1,
    "nonce": "n",
    "config_sha256": "c",
    "dataset_fingerprint": "d",
    "facts": {},
    "fence": 0,
}


def record(name, size=25, sha256=_SHA):
    return {"name": name, "bytes": size, "sha256": sha256}


def signed(**changes):
    body = {**BODY, "files": [], **changes}
    return manifest._canonical({"format": 1, "manifest": body, "sha256": manifest._digest(body)})


NAMES = [
    *("../secret", "../../secret", "/etc/passwd", "a/../../secret", "a/b", "..", ".", "", ".hidden", "a\0b"),
    *(
        "a\nb",
        "\x1b[2J",
        "x" * 129,
        "x" * 10_000,
        "é",
        "a b",
        "a\\b",
        "MANIFEST.json",
        "~root",
        "$HOME",
        "-rf\n",
    ),
]
MANIFESTS = {
    **{f"name {name[:20]!r}": signed(files=[record(name)]) for name in NAMES},
    "huge size": signed(files=[record("a", 2**62)]),
    "more than 64 bits": signed(files=[record("a", 2**70)]),
    "negative size": signed(files=[record("a", -1)]),
    "size as a float": signed(files=[record("a", 25.0)]),
    "size as true": signed(files=[record("a", True)]),
    "hash of another length": signed(files=[record("a", sha256="0" * 63)]),
    "hash in capitals": signed(files=[record("a", sha256=_SHA.upper())]),
    "hash as a list": signed(files=[record("a", sha256=["0"] * 64)]),
    "the same file twice": signed(files=[record("a"), record("a")]),
    "files out of order": signed(files=[record("b"), record("a")]),
    "a record too long": signed(files=[{**record("a"), "mode": 4095}]),
    "records as an object": signed(files={"a": record("a")}),
    "a record that is a string": signed(files=["a"]),
    "a negative step": signed(step=-2),
    "a step as text": signed(step="2"),
    "a step of 4,000 digits": signed(step=10**3999),
    "a huge fence": signed(fence=2**64),
    "facts as a list": signed(facts=[]),
    "an unknown key": signed(exec="import os"),
    "another format": signed().replace(b'"format": 1', b'"format": 2'),
    "not a number": signed().replace(b'"fence": 0', b'"fence": NaN'),
    "infinity": signed().replace(b'"fence": 0', b'"fence": 1e999'),
    "depth 100,000": b"[" * 100_000 + b"]" * 100_000,
    "depth 900 inside": signed(facts=json.loads('{"a":' * 900 + "1" + "}" * 900)),
    "4 MiB of brackets": b"[" + b"[]," * 1_300_000 + b"[]]",
    "8 MiB of spaces": b" " * (8 << 20),
    "one long number": b"9" * 1_000_000,
    "not UTF-8": b"\xff\xfe\xfd",
    "a byte order mark": b"\xef\xbb\xbf" + signed(),
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.",
    "nothing": b"",
    "null": b"null\n",
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "secret").write_bytes(_SECRET)
    cases.save(tmp_path / "root", 1)
    return tmp_path / "root"


@pytest.fixture
def opened(monkeypatch):
    """Return the real paths of all files that are opened from now on."""
    paths, real = [], os.open

    def watched(*arguments, **keywords):
        descriptor = real(*arguments, **keywords)
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    return paths


def outside(tmp_path):
    return {path: path.lstat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "root"}


@pytest.mark.parametrize("data", MANIFESTS.values(), ids=MANIFESTS)
def test_a_hostile_manifest_is_passed_over_and_reaches_nothing_outside(root, opened, data):
    evil = root / "step-00000002"
    evil.mkdir(0o700)
    (evil / "MANIFEST.json").write_bytes(data)
    (evil / "a").write_bytes(_SECRET)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: other tests had theirs
    resident = peak_kibibytes()
    before, began = outside(root.parent), time.process_time()
    opened.clear()
    found = commit.newest_valid(root)
    assert found is not None
    assert (found.step, time.process_time() - began < _MOST_SECONDS) == (1, True)
    assert outside(root.parent) == before
    assert [path for path in opened if not path.is_relative_to(root)] == []
    assert peak_kibibytes() - resident < 256 << 10


def test_the_hostile_manifests_are_many_enough_and_differ_from_a_good_one(root):
    assert len(MANIFESTS) >= 40
    (root / "step-00000002").mkdir(0o700)
    (root / "step-00000002" / "MANIFEST.json").write_bytes(signed())
    found = commit.newest_valid(root)
    assert found is not None
    assert found.step == 2


def plant(root, kind):
    target = root / "step-00000002"
    other = root.parent / "elsewhere"
    good = cases.save(other, 2).path
    if kind == "a link for the directory":
        target.symlink_to(good)
    elif kind == "a file for the directory":
        target.write_bytes(b"")
    else:
        good.rename(target)
        victim = target / ("MANIFEST.json" if "manifest" in kind else "rank0.bin")
        copy = other / "copy"
        victim.rename(copy)
        if kind.startswith("a link"):
            victim.symlink_to(copy)
        elif kind.startswith("a pipe"):
            os.mkfifo(victim)
        else:
            victim.mkdir()


KINDS = [
    *("a link for the directory", "a file for the directory", "a link for the manifest", "a link for a file"),
    *(
        "a pipe for the manifest",
        "a pipe for a file",
        "a directory for the manifest",
        "a directory for a file",
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_not_followed_waited_for_or_taken(root, opened, kind):
    plant(root, kind)
    opened.clear()
    found = commit.newest_valid(root)
    assert found is not None
    assert found.step == 1
    assert [path for path in opened if not path.is_relative_to(root)] == []


def test_links_inside_leftovers_are_removed_and_their_targets_stay(root):
    for leftover in (".tmp-step-00000009-x", ".del-step-00000001"):
        (root / leftover / "deep").mkdir(parents=True)
        (root / leftover / "deep" / "link").symlink_to(root.parent)
        (root / leftover / "file").symlink_to(root.parent / "secret")
    (root / ".tmp-link").symlink_to(root.parent)
    commit.begin(root, 2, "n")
    assert (root.parent / "secret").read_bytes() == _SECRET
    assert sorted(path.name for path in root.iterdir()) == [".tmp-step-00000002-n", "latest", "step-00000001"]


def test_a_planted_link_for_latest_or_for_a_rank_file_is_not_written_through(root):
    secret = root.parent / "secret"
    (root / "latest").unlink()
    (root / "latest").symlink_to(secret)
    cases.save(root, 2)
    temporary = commit.begin(root, 3, "n")
    (temporary / "rank0.bin").symlink_to(secret)
    with pytest.raises(FileExistsError):
        commit.write(temporary, "rank0.bin", [b"x"])
    assert secret.read_bytes() == _SECRET


def test_the_checkpoint_directory_itself_may_not_be_a_link(root):
    link = root.parent / "link"
    link.symlink_to(root)
    for call in (commit.newest_valid, commit.checkpoints, lambda path: commit.begin(path, 5, "n")):
        with pytest.raises(RefusedError, match="symbolic link"):
            call(link)


@pytest.mark.parametrize("name", NAMES)
def test_no_rank_can_write_under_an_unsafe_name(root, name):
    temporary = commit.begin(root, 2, "n")
    with pytest.raises(RefusedError):
        commit.write(temporary, name, [b"x"])
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("nonce", ["../x", "a/b", "", "..", "x" * 200, "a\0"])
def test_no_attempt_has_an_unsafe_nonce(root, nonce):
    with pytest.raises(RefusedError):
        commit.begin(root, 2, nonce)


def test_only_an_uncommitted_save_can_be_abandoned(root):
    with pytest.raises(RefusedError):
        commit.abandon(root, root / "step-00000001")
    assert commit.verify(root / "step-00000001")


@pytest.mark.parametrize(
    "hint", [None, "", "step-", "step-00000001", "step-00000009", "../../etc/passwd", "\0" * 64]
)
def test_latest_is_a_hint_that_nobody_trusts(root, hint):
    cases.save(root, 2)
    (root / "latest").unlink()
    if hint is not None:
        (root / "latest").write_text(hint)
    assert getattr(commit.newest_valid(root), "step", None) == 2


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_latest_may_even_be_no_file(root, kind):
    (root / "latest").unlink()
    {
        "directory": (root / "latest").mkdir,
        "link": lambda: (root / "latest").symlink_to("/"),
        "pipe": lambda: os.mkfifo(root / "latest"),
    }[kind]()
    assert getattr(commit.newest_valid(root), "step", None) == 1
    assert cases.save(root, 2).step == 2


def test_verify_names_what_differs(root):
    (root / "step-00000001" / "rank0.bin").write_bytes(b"x" * (300))
    with pytest.raises(CorruptError, match=r"rank0\.bin.*SHA-256"):
        commit.verify(root / "step-00000001")
    with pytest.raises(NoCheckpointError):
        commit.newest_valid(root)
    assert durable.checked_name("rank0.bin") == "rank0.bin"
