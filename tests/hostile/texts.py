"""Hostile settings: addresses that would run a program, and values that Hydra could make act."""

from hostile.states import CANARY

ADDRESSES = (
    *(f"pipe:touch {CANARY}", f"pipe://touch {CANARY}", f"PIPE:touch {CANARY}", f" pipe:touch {CANARY}"),
    *(f"cmd://touch {CANARY}", f"sh -c 'touch {CANARY}' |", f"|touch {CANARY}", f"`touch {CANARY}`"),
    *(
        f"$(touch {CANARY})",
        f"; touch {CANARY}",
        f"-o{CANARY}",
        "data:text/plain,evil",
        "javascript:alert(1)",
    ),
    *("file:///etc/passwd", "FILE:///etc/passwd", "local:///etc/passwd", "file://localhost/etc/passwd"),
    *("ssh://host/file", "sftp://host/file", "scp://host/file", "smb://host/file", "ftp://host/file"),
    *("webhdfs://host/file", "hdfs://host/file", "github://evil:evil@main/x", "git://evil/x.git"),
    *(
        "jupyter://host/file",
        "dask://host/file",
        "reference://::file:///etc/passwd",
        "zip://x::file:///etc/passwd",
    ),
    *("tar://x::file:///etc/passwd", "simplecache::file:///etc/passwd", "filecache::file:///etc/passwd"),
    *("blockcache::file:///etc/passwd", "libarchive://x::file:///etc/passwd", "s3://bucket/x::pipe://evil"),
    *(
        "https://host/x::file:///etc/passwd",
        "gopher://host/x",
        "ldap://host/x",
        "jar:file:///evil!/x",
        "dir://x::file:///etc",
    ),
    *("generic://file:///etc/passwd", "asyncwrapper://x", "dbfs:///evil", "oci://evil/x", "lakefs://evil/x"),
)

_CALL = {"os.system": f"touch {CANARY}", "subprocess.getoutput": f"touch {CANARY}", "builtins.eval": "1"}
# What could stand in the config.yaml of a run directory that came from somebody else.
CONFIGS = (
    *(f"model:\n  _target_: {call}\n  _args_: ['{argument}']\n" for call, argument in _CALL.items()),
    *(f"_target_: {call}\n_args_: ['{argument}']\n" for call, argument in _CALL.items()),
    f"optim:\n  _target_: logging.os.system\n  command: touch {CANARY}\n",
    f"!!python/object/apply:os.system ['touch {CANARY}']\n",
    f"model: !!python/object/apply:os.system ['touch {CANARY}']\n",
    "model: !!python/name:os.system\n",
    f"model: !!python/object/new:os.system ['touch {CANARY}']\n",
    "run_dir: ${evil:touch}\n",
    "run_dir: ${hydra:runtime.cwd}\n",
    "run_dir: ${oc.decode:'__import__'}\n",
    f"hydra:\n  callbacks:\n    x:\n      _target_: os.system\n      command: touch {CANARY}\n",
    "defaults:\n  - evil\n",
    "run_dir: ${run_dir}\n",
    "a: &a [x]\nb: [*a, *a]\nrun_dir: *a\n",
)
OVERRIDES = (
    *(f"+model._target_={call}" for call in _CALL),
    *(f"++optim._target_={call}" for call in _CALL),
    *(
        "hydra.run.dir=/tmp/evil",
        "+hydra.callbacks.x._target_=os.system",
        "hydra/launcher=evil",
        "+hydra.searchpath=[/tmp]",
    ),
    *(
        "model=../../../../etc/passwd",
        "model=/etc/passwd",
        "+experiment@_here_=../evil",
        "experiment=../../evil",
    ),
    *("--config-dir=/tmp", "-cd", "+a=${evil:x}", "seed=${oc.decode:__import__}"),
)
