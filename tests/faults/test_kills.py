import random

import pytest

from faults import forked, sweep

# A number without a factor in common with the pattern of the calls, so that every kind is met.
_THINNED = 11


def forked_kills(world_size, stride=1):
    return [
        wrong
        for place in range(0, len(forked.calls_of(world_size)), stride)
        if (wrong := forked.forked(place, "KILL", world_size=world_size))
    ]


def forked_errors(stride=1):
    wrong, points = [], 0
    errors = [(error, lasting) for error in sweep.ERRORS for lasting in (False, True)]
    for place, name in list(enumerate(forked.calls_of(1)))[::stride]:
        short = [("short", False)] if name == "write" else []
        for fault, lasting in (errors if name in forked.FAILING else []) + short:
            points += 1
            wrong.append(forked.forked(place, fault, lasting=lasting))
    return points, list(filter(None, wrong))


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_job_killed_at_some_changing_calls_goes_on_as_if_it_had_not_been(world_size):
    assert forked_kills(world_size, stride=_THINNED) == []


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_a_job_whose_restarts_are_killed_too_goes_on_in_the_end(count):
    draw = random.Random(count)
    calls = range(len(forked.calls_of(2)))
    for _ in range(count):
        # Early places: what a restart does first is to mend what the kill before it left.
        places = [draw.choice(calls), *draw.choices(range(40), k=draw.randrange(1, 4))]
        assert forked.killed_often(places) is None, places


def test_no_error_of_the_disk_at_some_calls_is_silent_or_costs_a_save():
    assert forked_errors(stride=2 * _THINNED)[1] == []


@pytest.mark.slow
def test_a_job_killed_at_any_changing_call_goes_on_as_if_it_had_not_been():
    assert len(forked.calls_of(1)) + len(forked.calls_of(2)) >= 500
    assert forked_kills(1) + forked_kills(2) == []


@pytest.mark.slow
def test_no_error_of_the_disk_at_any_call_is_silent_or_costs_a_save():
    points, wrong = forked_errors()
    assert points >= 1000
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_kernel_itself_may_kill_any_system_call():
    if reason := sweep.why_not_traced():
        pytest.skip(reason)
    chosen = list(sweep.points(faults=["KILL"]))
    assert len(chosen) >= 500
    assert sweep.swept(chosen) == []


@pytest.mark.slow
def test_the_kernel_itself_may_fail_many_system_calls():
    if reason := sweep.why_not_traced():
        pytest.skip(reason)
    assert sweep.swept(list(sweep.points(faults=["ENOSPC", "EIO", "lie"]))[:: 2 * _THINNED]) == []


def test_the_kernel_itself_may_kill_some_system_calls():
    if reason := sweep.why_not_traced():
        pytest.skip(reason)
    assert sweep.swept(list(sweep.points(faults=["KILL"]))[:: 7 * _THINNED]) == []
