import pytest

from faults import model, mutants, scratch


def explored(world_sizes, seeds, *, reordered):
    states, violations, seen = 0, [], set()
    for name, log in model.runs(world_sizes, seeds):
        with scratch.directory() as base:
            verdict = model.explore(log, base / "disk", reordered=reordered, seen=seen)
        states += verdict.states
        violations += [f"{name}: {each}" for each in verdict.violations]
    return states, violations


@pytest.mark.parametrize(("world_size", "reordered"), [(1, False), (1, True), (2, False)])
def test_a_power_cut_never_costs_a_checkpoint_that_was_promised(world_size, reordered):
    states, violations = explored((world_size,), range(1), reordered=reordered)
    assert states > 2000
    assert violations == []


@pytest.mark.slow
@pytest.mark.parametrize(("world_sizes", "reordered"), [((2, 4), False), ((1, 2), True)])
def test_a_power_cut_at_any_moment_of_any_interleaving_costs_nothing(world_sizes, reordered):
    states, violations = explored(world_sizes, range(2), reordered=reordered)
    assert states > 100_000
    assert violations == []


@pytest.mark.parametrize("bug", ["files are not synced", "the guard is not asked"])
def test_a_planted_bug_is_caught(bug):
    number = next(n for n, mutant in enumerate(mutants.MUTANTS) if mutant.bug == bug)
    assert not mutants.caught(number).startswith("SURVIVED")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_planted_bug_is_caught(capsys):
    assert len(mutants.MUTANTS) >= 12
    assert mutants.survivors() == [], capsys.readouterr().out
