import pytest

from pretrain.evaluation.detokenizers import penn_treebank, wikitext


@pytest.mark.parametrize(
    ("tokenised", "written"),
    [
        ("he said ; 1 @,@ 000 @-@ year , now", "he said; 1,000-year, now"),
        ("the players ' bus ( a @.@ b ) [ sic ]", "the players' bus (a.b) [sic]"),
        (' \n = = Plot = = \n " Yes " , he \'s here . End', '\n== Plot ==\n"Yes", he\'s here. End'),
        (" \n = Homarus gammarus = \n ", "\n= Homarus gammarus =\n"),
        ("at 20 ° C", "at 20°C"),
    ],
)
def test_wikitext_reads_as_it_was_written(tokenised: str, written: str):
    assert wikitext(tokenised) == written


def test_the_penn_treebank_reads_as_megatron_has_it():
    """Its rules join a number to what stands before it; kept so, to be comparable."""
    assert (
        penn_treebank(" it did n't rise \n profit 's $ N million \n")
        == " it didn't rise\nprofit's $1 million\n"
    )
