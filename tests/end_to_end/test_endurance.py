"""Runs that are killed at random instants, again and again, end bit-equal to runs that nobody touched."""

import random

import pytest
from endurance import CONFIGURATIONS, Chain, Tally, straight

KILLS = 6  # of each of two configurations; soak.py does hundreds


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3])
def test_a_run_killed_at_random_instants_ends_bit_equal(shards, tmp_path, number):
    endure(shards, tmp_path, number, ("kill",), KILLS)


@pytest.mark.soak
def test_stops_full_disks_and_torn_files_cost_nothing_either(shards, tmp_path):
    endure(shards, tmp_path, 2, ("stop", "disk", "point", "tear"), 6)


def endure(shards, directory, number, kinds, faults):
    seed = str(random.randrange(2**32))
    tally, chain = Tally(), 0
    twin = straight(CONFIGURATIONS[number], shards, directory / "twin")
    while (met := sum(tally.faults.values())) < faults:
        place = directory / f"chain-{chain}"
        Chain(CONFIGURATIONS[number], shards, place, f"{seed}/{chain}").live(kinds, faults - met, tally, twin)
        chain += 1
    print(f"seed {seed}: {tally}")
    assert tally.wrong == []
    assert (tally.bit_equal, tally.lost, tally.duplicated) == (tally.chains, 0, 0)
