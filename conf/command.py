"""How a command meets the shell: its arguments, its help, its one-line errors and its exit code."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from omegaconf import OmegaConf

from conf import compose
from conf.exits import Exit, UserError

# The disk said no: none of these is mended by trying again at once.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


def run(main: Callable[[list[str]], int | None], *, name: str, config: str, usage: str | None) -> NoReturn:
    """Call `main(overrides)` as the command `name` and leave the process with its exit code.

    `--help` prints `usage`; `--cfg job` prints the composed config and does nothing else. A
    UserError is printed as one line; other exceptions are bugs and keep their traceback.
    """
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print((usage or name).strip())
        sys.exit(Exit.OK)
    try:
        if arguments[:2] == ["--cfg", "job"]:
            print(OmegaConf.to_yaml(compose(config, arguments[2:])), end="")
            sys.exit(Exit.OK)
        _refuse_flags(arguments)
        sys.exit(main(arguments) or Exit.OK)
    except UserError as error:
        fail(name, str(error), error.code)
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it leaves
        sys.exit(128 + signal.SIGPIPE)
    except PermissionError as error:
        place = error.filename or "a file"
        fail(name, f"{place}: {error.strerror}; ask for the right to it, or choose another path", Exit.CONFIG)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        fail(
            name,
            f"{error.filename or 'disk'}: {error.strerror}; free space or choose another path",
            Exit.DISK,
        )
    except KeyboardInterrupt:
        fail(name, "interrupted", 130)  # 128 + SIGINT, as a shell reports it


def fail(name: str, message: str, code: int) -> NoReturn:
    """Print one line on standard error and leave with `code`."""
    line = " ".join(message.split())
    print(f"{name}: error: {line} [exit {int(code)}]", file=sys.stderr, flush=True)
    sys.exit(int(code))


def _refuse_flags(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(f"unknown flag {argument}; settings are written key=value (see --help)")
