"""The bugs that `mutants` plants: passages of the protocol's source, and what they become."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A bug: in `module`, the only occurrence of `old` becomes `new`."""

    bug: str
    module: str
    old: str
    new: str


# How create_file gets bytes to disk; two mutants need both halves of it broken.
_WRITING = """            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        fault_point("write.synced")
        written = os.fstat(descriptor).st_size
        if written != length:"""

MUTANTS = (
    Mutant("files are not synced", "durable", "        os.fsync(descriptor)\n        fault", "        fault"),
    Mutant(
        "the checkpoint's directory is not synced by any rank",
        "durable",
        "    os.fsync(descriptor)\n\n\ndef remove_tree",
        "    if os.listdir(descriptor) and not any(n.endswith('.bin') for n in os.listdir(descriptor)):\n"
        "        os.fsync(descriptor)\n\n\ndef remove_tree",
    ),
    Mutant(
        "the manifest's entry is not synced",
        "commit",
        '            fault_point("commit.manifest")\n            durable.sync(directory)\n',
        '            fault_point("commit.manifest")\n',
    ),
    Mutant(
        "the parent is not synced after the rename",
        "commit",
        '        fault_point("commit.renamed")\n        durable.sync(parent)\n',
        '        fault_point("commit.renamed")\n',
    ),
    Mutant(
        "the checkpoint directory's own entry is not synced",
        "durable",
        "        sync(parent)\n",
        "        pass\n",
    ),
    Mutant(
        "renamed before the manifest is written",
        "commit",
        "            durable.create_file(MANIFEST_NAME, [data], within=directory)\n"
        '            fault_point("commit.manifest")\n'
        "            durable.sync(directory)\n"
        "        guard()\n"
        "        superseded = _set_aside(final, manifest.nonce, parent)\n"
        "        durable.rename(temporary.name, final, within=parent)\n",
        "            guard()\n"
        "            superseded = _set_aside(final, manifest.nonce, parent)\n"
        "            durable.rename(temporary.name, final, within=parent)\n"
        "            durable.create_file(MANIFEST_NAME, [data], within=directory)\n"
        "            durable.sync(directory)\n",
    ),
    Mutant(
        "an old checkpoint of the step is deleted before the new one counts",
        "commit",
        "        superseded = _set_aside(final, manifest.nonce, parent)\n",
        "        superseded = None\n        durable.remove_tree(final, within=parent)\n",
    ),
    Mutant(
        "an old checkpoint of the step that was set aside is not put back",
        "recovery",
        "            if name is not None and name not in present:",
        "            if False:",
    ),
    Mutant(
        "what was set aside is swept away though nothing took its place",
        "recovery",
        "name.startswith((TEMPORARY, DELETED)) or _superseded_name(name) in present",
        "name.startswith((TEMPORARY, DELETED, SUPERSEDED))",
    ),
    Mutant("everything but the newest is pruned", "retention", "_FEWEST = 2 ", "_FEWEST = 1 "),
    Mutant(
        "prune counts a damaged checkpoint", "retention", "and is_whole(root / candidate.name)", "and True"
    ),
    Mutant(
        "prune deletes the newest, keeps the oldest",
        "retention",
        "newest_first[place + 1 :]",
        "newest_first[:place]",
    ),
    Mutant(
        "prune deletes in place",
        "retention",
        "            durable.rename(name, DELETED + name, within=directory)\n",
        "            durable.remove_tree(name, within=directory)\n",
    ),
    Mutant(
        "pruned before the commit",
        "commit",
        "    root, name = Path(root), temporary_name(step, nonce)\n",
        "    root, name = Path(root), temporary_name(step, nonce)\n"
        "    for old in checkpoints(root)[1:]:\n"
        "        with durable.opened_directory(root) as d:\n"
        "            durable.remove_tree(old.name, within=d)\n",
    ),
    Mutant(
        "hashes are not checked on load",
        "recovery",
        "            if found[record.name] != record.sha256:",
        "            if False:",
    ),
    Mutant(
        "sizes alone decide on load",
        "recovery",
        "            manifest = verify(root / candidate.name, hashing)\n",
        "            manifest = candidate.manifest\n"
        "            with durable.opened_directory(root / candidate.name) as d:\n"
        "                check_files(manifest, d)\n",
    ),
    Mutant(
        "unknown files are let pass",
        "recovery",
        "    if present != recorded:",
        "    if not recorded <= present:",
    ),
    Mutant(
        "the step is not compared with the name",
        "recovery",
        "    if name != step_name(manifest.step):",
        "    if False:",
    ),
    Mutant(
        "the manifest's own hash is not checked",
        "manifest",
        '    if document["sha256"] != _digest(document["manifest"]):',
        "    if False:",
    ),
    Mutant(
        "any JSON spelling is taken",
        "manifest",
        "_canonical(document) == data",
        "True",
    ),
    Mutant(
        "the hint is trusted",
        "recovery",
        "    for candidate in candidates(root):\n        try:",
        "    hint = (root / LATEST).read_text().strip() if (root / LATEST).exists() else ''\n"
        "    for candidate in sorted(candidates(root), key=lambda each: each.name != hint):\n        try:",
    ),
    Mutant(
        "the hint is moved before the checkpoint counts",
        "commit",
        "        guard()\n",
        "        guard()\n        durable.replace_file(LATEST, final.encode(), within=parent, nonce='x')\n",
    ),
    Mutant(
        "a short write is taken for a whole one",
        "durable",
        "                rest = rest[os.write(descriptor, rest) :]",
        "                os.write(descriptor, rest)\n                rest = rest[len(rest) :]",
    ),
    Mutant(
        "a short write is taken for a whole one, and the size is not read back",
        "durable",
        _WRITING,
        "            os.write(descriptor, rest)\n        os.fsync(descriptor)\n        if False:",
    ),
    Mutant(
        "an error of the disk is swallowed, and the size is not read back",
        "durable",
        _WRITING,
        "            with suppress(OSError):\n"
        "                os.write(descriptor, rest)\n"
        "        os.fsync(descriptor)\n"
        "        if False:",
    ),
    Mutant(
        "the manifest lists what the ranks did not write",
        "commit",
        "            check_files(manifest, directory)\n",
        "",
    ),
    Mutant(
        "an error of fsync is swallowed",
        "durable",
        "        os.fsync(descriptor)\n        fault",
        "        with suppress(OSError):\n            os.fsync(descriptor)\n        fault",
    ),
    Mutant(
        "leftovers of dead saves are not removed",
        "recovery",
        "name.startswith((TEMPORARY, DELETED))",
        "name.startswith(DELETED)",
    ),
    Mutant(
        "the fence does not come first",
        "recovery",
        "return False, self.manifest.fence, self",
        "return False, 0, self",
    ),
    Mutant("a trainer that was replaced may commit", "commit", ") > manifest.fence:", ") > 2**62:"),
    Mutant("the guard is not asked", "commit", "        guard()\n", ""),
)
