"""One checkpoint gives the same answers however it is run: alone or in a batch, padded or over shared
prefixes."""

import pytest

from rft.evaluate.model_answers import ModelAnswers
from rft.evaluate.results import read_rows
from rft.evaluate.run import evaluate
from rft.models.local import LocalModel
from rft.tasks.load import load_split

QUESTIONS = 16


@pytest.fixture(scope="module")
def answers(repository, mini_data, tmp_path_factory):
    """(batch size, prefixes shared or not, dtype) -> the completions of the first questions."""
    out, split, found = tmp_path_factory.mktemp("engines"), load_split(mini_data, "val"), {}
    for batch, shares, dtype in (
        (1, True, "float32"),
        (8, True, "float32"),
        (1, False, "float32"),
        (8, False, "float32"),
        (8, True, "bfloat16"),
    ):
        model = LocalModel(repository / "recipes/quickstart/base", dtype=dtype)
        assert model.shares
        model.shares = shares
        folder = out / f"{batch}-{shares}-{dtype}"
        evaluate(
            split,
            folder,
            ModelAnswers(model, "history", max_new_tokens=24),
            limit=QUESTIONS,
            batch_size=batch,
        )
        found[batch, shares, dtype] = {row.id: row.completion for row in read_rows(folder)}
    return found


def test_batch_padding_and_sharing_change_no_answer(answers):
    alone = answers[1, False, "float32"]
    assert len(alone) == QUESTIONS and len(set(alone.values())) > QUESTIONS / 2
    for way in ((1, True), (8, True), (8, False)):
        assert answers[*way, "float32"] == alone, way


def test_bfloat16_may_differ_and_is_recorded(answers, tmp_path):
    alone, half = answers[1, False, "float32"], answers[8, True, "bfloat16"]
    same = sum(alone[key] == half[key] for key in alone)
    print(f"bfloat16 gives {same} of {QUESTIONS} answers of float32 word for word")
    assert same >= QUESTIONS / 2
