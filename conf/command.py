"""How a command meets the shell: its arguments, its help, its one-line errors and its exit code."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf

from conf import compose
from conf.exits import Exit, UserError

# The disk said no: none of these is mended by trying again at once.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
# A path is not what it must be. If nobody gave it, it is our own bug.
_PATH_ERRORS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP}
# Nothing that we do wrong: whatever lies below a path that was given may say so.
_REFUSALS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


def run(
    main: Callable[[list[str]], int | None],
    *,
    name: str,
    config: str,
    usage: str | None,
    flags: Callable[[list[str]], list[str]] = list,
    composed: Callable[[list[str]], DictConfig] | None = None,
) -> NoReturn:
    """Call `main(overrides)` as the command `name` and leave the process with its exit code.

    `--help` prints `usage`; `--cfg job` prints the composed config and does nothing else. `flags` writes
    what else begins with a dash as settings, and `composed` composes, where conf/`config`.yaml is not all.
    A UserError is printed as one line, like an error of the disk or of a path that the user gave; other
    exceptions are bugs and keep their traceback.
    """
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print((usage or name).strip())
        sys.exit(Exit.OK)
    try:
        shows, arguments = _without_cfg(arguments)
        arguments = flags(arguments)
        _refuse_flags(arguments)
        if shows:
            print(OmegaConf.to_yaml((composed or partial(compose, config))(arguments)), end="")
            sys.exit(Exit.OK)
        sys.exit(main(arguments) or Exit.OK)
    except UserError as error:
        fail(name, str(error), error.code)
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it leaves
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            fail(
                name,
                f"{error.filename or 'disk'}: {error.strerror}; free space or choose another path",
                Exit.DISK,
            )
        if not _is_of_a_given_path(error, sys.argv[1:]):
            raise
        fail(name, f"{error.filename}: {error.strerror}; name another path, or mend this one", Exit.CONFIG)
    except KeyboardInterrupt:
        fail(name, "interrupted", 130)  # 128 + SIGINT, as a shell reports it


def fail(name: str, message: str, code: int) -> NoReturn:
    """Print one line on standard error and leave with `code`."""
    line = " ".join(message.split())
    print(f"{name}: error: {line} [exit {int(code)}]", file=sys.stderr, flush=True)
    sys.exit(int(code))


def _without_cfg(arguments: list[str]) -> tuple[bool, list[str]]:
    """Return whether `--cfg job` is among the arguments, and the others."""
    if "--cfg" not in arguments:
        return False, arguments
    place = arguments.index("--cfg")
    if arguments[place + 1 : place + 2] != ["job"]:
        raise UserError("--cfg shows one thing; write --cfg job")
    return True, arguments[:place] + arguments[place + 2 :]


def _refuse_flags(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(f"unknown flag {argument}; settings are written key=value (see --help)")


def _is_of_a_given_path(error: OSError, arguments: Sequence[str]) -> bool:
    """Say whether a file could not be used because of what the user gave: that path, or one above it."""
    if error.errno not in _PATH_ERRORS | _REFUSALS or not isinstance(error.filename, str):
        return False
    wrong = Path(error.filename).resolve()
    for given in _given_paths(arguments):
        if given.is_relative_to(wrong) or (error.errno in _REFUSALS and wrong.is_relative_to(given)):
            return True
    return False


def _given_paths(arguments: Sequence[str]) -> Iterator[Path]:
    """Yield every value of the arguments as a path, those inside lists and mappings too."""
    for argument in arguments:
        value = argument.partition("=")[2]
        for part in {value, *re.split(r"[\[\]{},]", value), *re.split(r"[\[\]{},:]", value)}:
            if text := part.strip(" '\""):
                yield Path(os.path.expanduser(text)).resolve()  # noqa: PTH111  Path's raises for ~nobody-here
