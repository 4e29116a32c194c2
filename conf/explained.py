"""How a setting that fits nothing is explained: what is wrong with it, and what would be right."""

import difflib
import re
from collections.abc import Sequence

from conf.folders import options

# What other trainers call it.
_OTHER_NAMES = {
    "lr": "schedule.peak",
    "learning_rate": "schedule.peak",
    "warmup": "schedule.warmup_steps",
    "batch_size": "batch.tokens",
    "max_steps": "steps",
    "max_iters": "steps",
    "num_steps": "steps",
    "block_size": "data.sequence_tokens",
    "seq_len": "data.sequence_tokens",
    "out_dir": "run_dir",
    "output_dir": "run_dir",
    "gpus": "cluster.slurm.train.gpus_per_node",
    "nodes": "cluster.slurm.train.nodes",
}
_WANTED = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
_TIMES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}


def no_option(group: str, name: str) -> str:
    """Return what to say of a name that a group does not know."""
    return f"{group} has no option '{name}'; choose one of: {', '.join(options(group))}"


def refused(error: Exception, name: str, known: Sequence[str]) -> str:
    """Put Hydra's many-line message about conf/`name`.yaml into one line with the way out."""
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        return f"unknown key '{found[1]}' for {name}{nearest(found[1], known)}"
    if found := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, option = found[1].rpartition("/")
        return no_option(group, option)
    if found := re.search(r"Ambiguous value for argument '([^=']+)=(.*?)'\s", text):
        key, value = found.groups()
        number = re.fullmatch(r"\d{1,3}(,\d{3})+", value) and value.replace(",", "")
        way_out = number or f"[{value}] for a list, or '\"{value}\"' for one text"
        sweep = "; slurm.submit --multirun takes a run of each" if name == "train" else ""
        return f"{key}={value} is more than one value; write {key}={way_out}{sweep}"
    if "mismatched input" in text or "token recognition" in text or "missing EQUAL" in text:
        return f"cannot read the override: {text.splitlines()[0]}; write key=value"
    return " ".join(text.split())


def mistyped(key: str, text: str) -> str:
    """Put OmegaConf's message about a value of the wrong type into words, with a guess of what is meant."""
    converted = r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)"
    if found := re.match(converted, text):
        value, wanted = found[1], _WANTED.get(found[2], found[2])
        guess = _whole_number(value) if found[2] == "Integer" else None
        return f"{key}: '{value}' is not {wanted}" + (f"; write {guess}" if guess is not None else "")
    if "Incompatible value 'None'" in text:
        return f"{key}: null is no value of it; leave it out for the default"
    if "is not a ListConfig" in text:
        return f"{key}: a list is wanted; write {key}=[…]"
    if "to Dict[" in text or "is not a subclass of" in text:
        return f"{key}: settings with names are wanted; write {{NAME: VALUE, …}}"
    return f"{key}: {text}"


def nearest(key: str, known: Sequence[str]) -> str:
    """Return '; did you mean …?' for what is most like `key` among the known keys, or what its group has."""
    group, dot, last = key.rpartition(".")
    if (other := _OTHER_NAMES.get(last)) in known:
        return f"; did you mean '{other}'?"
    beside = [name for name in known if name.startswith(group + dot)]  # all, if there is no group
    by_last = {name.rpartition(".")[2]: name for name in known}
    for names in ({name.removeprefix(group + dot): name for name in beside}, by_last):
        if found := difflib.get_close_matches(last, names, n=1, cutoff=0.6):
            return f"; did you mean '{names[found[0]]}'?"
    if dot and beside:
        return f"; {group} has: {', '.join(name.removeprefix(group + dot) for name in beside)}"
    return "; see --cfg job for all keys"


def _whole_number(text: str) -> int | None:
    """Return the number that 500k, 0.5M, 1e6, 524,288 or 12.0 mean; None if none is meant."""
    found = re.fullmatch(r"([\d.]+(?:e\+?\d+)?)\s*([kmgbt]?)", text.replace(",", "").replace("_", "").lower())
    try:
        number = float(found[1]) * _TIMES[found[2]] if found else 0.5
        return int(number) if number.is_integer() else None
    except (ValueError, OverflowError):
        return None
