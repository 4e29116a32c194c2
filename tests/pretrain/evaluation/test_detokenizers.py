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


@pytest.mark.parametrize(
    ("tokenised", "written"),
    [
        (" it did n't rise \n profit 's $ N million \n", " it didn't rise\nprofit's $1 million\n"),
        (" sales of N units \n", " sales of 1 units\n"),
        (" from N N a share \n up to N \n N of them \n", " from 1 1 a share\nup to 1\n1 of them\n"),
        (" mr. N. is chairman of <unk> n.v. \n", " mr. N. is chairman of <unk> n.v.\n"),
        (" filing # N of # N N \n", " filing #1 of #1 1\n"),
    ],
)
def test_the_penn_treebank_reads_as_it_was_written(tokenised: str, written: str):
    """Megatron's rule joins a number to the word before it ("sales of1 units"); it leaves some N."""
    assert penn_treebank(tokenised) == written
