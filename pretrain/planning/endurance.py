"""How often to save, and what failures, time limits and saves add to the hours of a run."""

import math
from dataclasses import dataclass

# 419 unexpected interruptions in 54 days on 16,384 H100s (Grattafiori et al., 2024, "The Llama 3 herd of
# models", section 3.3.4): one for each GPU in 50,700 hours.
FAILURES_PER_GPU_HOUR = 419 / (54 * 24 * 16_384)


@dataclass(frozen=True)
class Endurance:
    """What lies between the first start of a run and its last step."""

    save_seconds: float  # that training stands still for one save
    interval_seconds: float  # between two saves, by Daly
    starts: int  # of the job, the first one included
    failures: float  # expected
    lost_hours: float  # starts, saves, and steps done again
    hours: float  # of the run, lost ones included


def best_interval(save_seconds: float, seconds_between_failures: float) -> float:
    """Return the seconds between two saves that lose the least time.

    Daly (2006), "A higher order estimate of the optimum checkpoint interval", equation 37; its first
    term is Young's (1974) sqrt(2δM).
    """
    ratio = save_seconds / (2 * seconds_between_failures)
    if ratio >= 1:
        return seconds_between_failures
    young = math.sqrt(2 * save_seconds * seconds_between_failures)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_seconds


def endurance(
    *,
    hours: float,
    ranks: int,
    save_seconds: float,
    write_seconds: float,
    startup_seconds: float,
    limit_hours: float | None,
    failures_per_gpu_hour: float = FAILURES_PER_GPU_HOUR,
) -> Endurance:
    """Return what `hours` of pure training become.

    A save stops training for `save_seconds` and is written for `write_seconds` beside it, so no two
    begin within that time. A failure costs a start and, on average, half an interval.
    """
    between = 3600 / (failures_per_gpu_hour * ranks)
    interval = max(best_interval(max(save_seconds, 1e-3), between), write_seconds, 60.0)
    saves = hours * 3600 / interval
    failures = hours * 3600 / between
    lost = saves * save_seconds + failures * (startup_seconds + interval / 2) + startup_seconds
    starts = 1 + math.ceil(failures - 0.5)
    if limit_hours is not None:
        usable = max(0.01, limit_hours - startup_seconds / 3600)
        planned = math.ceil((hours + lost / 3600) / usable)
        lost += (planned - 1) * (startup_seconds + save_seconds)
        starts = max(starts, planned + math.ceil(failures - 0.5))
    return Endurance(save_seconds, interval, starts, failures, lost / 3600, hours + lost / 3600)
