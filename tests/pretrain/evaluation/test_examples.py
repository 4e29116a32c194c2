import pytest

from conf.exits import DatasetError
from data_prep.tokenizer import load_tokenizer
from pretrain.evaluation import examples
from pretrain.evaluation.examples import Example, few_shot, requests

HELLASWAG = {
    "activity_label": "Roof",
    "ctx_a": "A man is  on a roof. [header] How [title] Up",
    "ctx_b": "he",
    "ctx": "A man is  on a roof. [header] How [title] Up he",
    "endings": ["is using wrap .", "[substeps] falls.", " jumps.", "sings."],
    "label": "3",
}


def test_hellaswag_is_asked_in_the_harness_words():
    found = examples.hellaswag(HELLASWAG, "f")
    assert found.query == "Roof: A man is on a roof. How. Up He"
    assert found.choices == (" is using wrap .", "  falls.", " jumps.", " sings.")
    assert found.right == 3


def test_hellaswag_by_completion_leaves_the_texts_as_they_stand():
    found = examples.hellaswag_completion(HELLASWAG, "f")
    assert (found.query, found.choices[1], found.joined) == (HELLASWAG["ctx"], " [substeps] falls.", False)


def test_lambada_asks_for_the_last_word():
    found = examples.lambada({"text": "he said to her mother"}, "f")
    assert found == Example("he said to her", (" mother",), 0)


def test_a_split_without_answers_is_refused():
    with pytest.raises(DatasetError, match="a split with answers"):
        examples.hellaswag({**HELLASWAG, "label": ""}, "f")


def test_few_shot_examples_stand_solved_before_the_query_and_never_the_question_itself():
    records = [{"query": str(n), "choices": ["x", "y"], "gold": n % 2} for n in range(3)]
    asked = [examples.choice(record, "f") for record in records]
    found = few_shot(asked, asked, 2)
    assert [each.query for each in found] == ["1 y\n\n2 x\n\n0", "0 x\n\n2 x\n\n1", "0 x\n\n1 y\n\n2"]
    assert few_shot(asked[:1], asked[1:], 0) == asked[:1]
    with pytest.raises(DatasetError, match="few_shot=3 wants 3 other examples, there are 2"):
        few_shot(asked[:1], asked, 3)


@pytest.mark.parametrize(
    ("query", "choice"), [("the cat", " sat"), ("the cat ", "sat"), ("", "sat"), ("a\n", " b")]
)
def test_query_and_choice_are_the_tokens_of_the_whole_text(query: str, choice: str):
    tokenizer = load_tokenizer()
    (found,) = requests(Example(query, (choice,), 0), tokenizer)
    whole = tokenizer.encode(query + choice)
    assert [*found.context, *found.continuation] == (whole if query else [tokenizer.end_of_text, *whole])
    assert list(found.context) == (tokenizer.encode(query.rstrip()) or [tokenizer.end_of_text])


def test_tokenised_each_by_itself_is_another_question_where_a_token_would_span_the_two():
    tokenizer = load_tokenizer()
    joined, apart = (requests(Example("ab", ("c",), 0, way), tokenizer)[0] for way in (True, False))
    assert [*apart.context, *apart.continuation] == tokenizer.encode("ab") + tokenizer.encode("c")
    assert [*joined.context, *joined.continuation] != [*apart.context, *apart.continuation]
