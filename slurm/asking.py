"""How another program is asked something, so that one that is missing, fails or hangs is an answer too."""

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a command came to."""

    code: int
    out: str
    error: str


def ask(*command: str, seconds: float = 60.0) -> Answer:
    """Run a command and return its answer; one that cannot be run, or takes longer, has code 255."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(255, "", str(error))
    return Answer(done.returncode, done.stdout.strip(), done.stderr.strip())
