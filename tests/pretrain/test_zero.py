import pytest

from pretrain.zero import ZeroConfig, stage_among


@pytest.mark.parametrize(
    ("ranks", "stage", "precision", "served_by"),
    [
        (1, 1, "fp32", 0),
        (1, 2, "autocast", 0),
        (1, 0, "autocast", 0),
        (1, 1, "bf16", 1),  # whose masters are ZeRO's
        (1, 3, "fp32", 3),
        (2, 1, "fp32", 1),
        (8, 2, "autocast", 2),
    ],
)
def test_one_rank_alone_cuts_nothing_unless_it_must(ranks: int, stage: int, precision: str, served_by: int):
    assert stage_among(ranks, stage, precision) == served_by


def test_one_rank_that_offloads_keeps_its_stage():
    assert stage_among(1, 2, "fp32", offload=True) == 2


def test_offload_without_a_stage_that_cuts_is_refused():
    with pytest.raises(ValueError, match=r"use zero=stage1"):
        ZeroConfig(stage=0, offload=True)


def test_a_stage_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"zero.stage 4 is not one of 0, 1, 2, 3"):
        ZeroConfig(stage=4)
