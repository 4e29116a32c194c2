import torch

from pretrain.step import readback
from pretrain.step.readback import Readback


def test_on_a_cpu_a_number_is_there_at_once():
    ours = Readback(torch.device("cpu"))
    ours.send(1, torch.tensor(0.5))
    assert list(ours.arrived()) == [(1, 0.5)]
    assert list(ours.arrived()) == []


def test_with_a_lag_every_step_is_told_once_and_in_order():
    ours = Readback(torch.device("cpu"))
    ours._lag = readback._LAG_STEPS
    told = []
    for step in range(1, 6):
        ours.send(step, torch.tensor(float(step)))
        told.append(list(ours.arrived()))
    assert told == [[], [], [(1, 1.0)], [(2, 2.0)], [(3, 3.0)]]
