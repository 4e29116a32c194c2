"""A running test cluster as a test sees it: submit, ask, break, mend."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(__file__).with_name("cluster")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY")
_LONGEST_SECONDS = 600  # enough where other work keeps all cores busy


def why_not() -> str:
    """Return why no cluster can be started here; "" if one can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program in ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare"):
        if not any(os.access(f"{folder}/{program}", os.X_OK) for folder in search.split(":")):
            return f"{program} is not installed; .ci/run installs it"
    probe = f"gptp{os.getpid()}"  # of this process: sessions may run side by side
    made = subprocess.run(
        ["ip", "link", "add", probe, "type", "bridge"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "link", "del", probe], check=True)
    return ""


class Cluster:
    """Four nodes, n1 to n4, with two pretended GPUs each; partitions main, low (preempted by high), short."""

    def __init__(self, directory: Path, number: int) -> None:
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {
            **ours,
            "CLUSTER_DIR": str(directory),
            "CLUSTER_NUMBER": str(number),
            "SLURM_CONF": str(directory / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }

    def control(self, *arguments: str) -> None:
        """Run tests/slurm/cluster."""
        done = subprocess.run(
            [SCRIPT, *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)

    def start(self, node: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a command on a node, as somebody who has logged in there would."""
        return subprocess.Popen(
            [SCRIPT, "exec", node, *command], env=self.environment, stdin=subprocess.DEVNULL
        )

    def ask(self, *command: str | Path, **environment: str) -> str:
        """Return what a command of SLURM prints; it must succeed."""
        done = self.tried(*command, **environment)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def tried(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user of the cluster would."""
        return subprocess.run(
            [str(part) for part in command],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def submit(self, *arguments: str | Path, **environment: str) -> str:
        """Submit a job; return its id."""
        return self.ask("sbatch", "--parsable", *arguments, **environment)

    def state(self, job: str) -> str:
        """Return the job's state."""
        return self.shown(job, "%T")

    def shown(self, job: str, form: str) -> str:
        """Return what squeue shows of a job."""
        lines = self.ask(
            "squeue", "--noheader", f"--jobs={job}", "--states=all", f"--format={form}"
        ).splitlines()
        return lines[0] if lines else ""

    def fact(self, job: str, name: str) -> str:
        """Return what scontrol knows of a job, such as Restarts or ExitCode."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)[name]

    def until(self, question: Callable[[], object], what: str, seconds: float = _LONGEST_SECONDS) -> None:
        """Return when the question is answered by something true."""
        deadline = time.monotonic() + seconds
        while not question():
            if time.monotonic() > deadline:
                asked = [
                    self.tried(*words.split()).stdout
                    for words in ("sinfo -N -l", "sinfo -R", "squeue -t all")
                ]
                raise AssertionError("\n".join([f"not within {seconds:.0f} s: {what}", *asked]))
            time.sleep(0.1)

    def ended(self, job: str, seconds: float = _LONGEST_SECONDS) -> str:
        """Return the state in which the job has ended."""
        self.until(lambda: self.state(job) in ENDED, f"job {job} ends", seconds)
        return self.state(job)

    def mend(self) -> None:
        """Cancel everything, heal and switch on every node, and return when all are idle."""
        for job in self.ask("squeue", "--noheader", "--format=%A").split():
            self.tried("scontrol", "update", f"JobId={job}", "Requeue=0")
            self.tried("scancel", job)
        for node in ("n1", "n2", "n3", "n4"):
            self.control("heal", node)
            self.control("on", node)
        self.until(lambda: not self.ask("squeue", "--noheader"), "the queue is empty")
        drained = self.ask("sinfo", "--noheader", "--Node", "--states=drain,drained,draining", "--format=%N")
        for node in set(drained.split()):
            self.tried("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self.control("wait", "120")
