"""Say what a run will need and take before it costs anything: memory, speed, hours, restarts, disk, money.

python -m pretrain.plan experiment=gpt2_124m cluster=h100x8_infiniband [gpus=64] [format=json]
python -m pretrain.plan experiments=all cluster=h100x8_infiniband

No torch and no GPU are needed. Leaves with exit code 10 if the run does not fit the GPUs asked for,
and says which number would do. Speeds come from a model, or from measured runs in results=FOLDER.
"""

import json
from dataclasses import asdict

from conf import DIRECTORY, compose
from conf.command import run
from conf.exits import ConfigError
from conf.folders import options
from pretrain.planning.calibration import Calibration, calibration
from pretrain.planning.plans import Plan, Refusal, planned, storage_bytes
from pretrain.planning.question import PlanConfig, Question, plan_config, question
from pretrain.planning.text import sizes_table, whole_text


def main(overrides: list[str]) -> None:
    """Print the plan. Raises ConfigError if the run does not fit the ranks asked for."""
    raw = compose("plan", overrides)
    config = plan_config(raw)
    if config.experiments:
        print(_all_text(overrides, config))
        return
    chosen = [each.partition("=")[2] for each in overrides if each.startswith("experiment=")]
    asked = question(raw, config, chosen[-1] if chosen else "run")
    calibrated = calibration(asked, config.measured)
    plans = [planned(asked, ranks, calibrated.factor) for ranks in (asked.ranks, *asked.sizes)]
    if config.format == "json":
        print(json.dumps(as_json(asked, plans, calibrated), indent=2))
    else:
        print(whole_text(asked, plans, calibrated))
    if isinstance(plans[0], Refusal):
        raise ConfigError(f"{asked.name} {plans[0].reason}; {plans[0].remedy}")


def as_json(asked: Question, plans: list[Plan | Refusal], calibrated: Calibration) -> dict[str, object]:
    """Return the plans as JSON data: the one asked for, and one for each other size."""
    told = [
        {"fits": isinstance(each, Plan), "ranks": _ranks(each), **asdict(each)}
        | ({"memory_gib": each.memory_gib} if isinstance(each, Plan) else {})
        for each in plans
    ]
    return {
        "name": asked.name,
        "parameters": asked.model.parameters,
        "tokens": asked.tokens,
        "calibration": asdict(calibrated),
        "storage_bytes": storage_bytes(asked),
        "asked": told[0],
        "sizes": told[1:],
    }


def _ranks(plan: Plan | Refusal) -> int:
    return plan.cut.ranks if isinstance(plan, Plan) else plan.ranks


def _all_text(overrides: list[str], config: PlanConfig) -> str:
    names = config.experiments
    if names == "all":
        ours = DIRECTORY / "experiment"
        found = options("experiment").items()
        names = [name for name, path in found if name.startswith("gpt") or path.parent != ours]
    elif isinstance(names, str):
        raise ConfigError(f"experiments={names} is neither all nor a list; write experiments=[{names}]")
    rest = [each for each in overrides if not each.startswith("experiments=")]
    rows = []
    for name in names:
        asked = question(compose("plan", [f"experiment={name}", *rest]), config, name)
        factor = calibration(asked, config.measured).factor
        rows += [(asked, planned(asked, ranks, factor)) for ranks in asked.sizes]
    return sizes_table(rows, named=True)


if __name__ == "__main__":
    run(main, name="pretrain.plan", config="plan", usage=__doc__)
