"""The cold start's rows: what the model sees of each, and what it learns from."""

from transformers import AutoTokenizer

from rft.data.dataset import load_split
from rft.data.prompt import PromptTokens
from rft.train.rows import target
from rft.train.sft import AnswerCollator


def test_loss_is_on_the_answer_alone_and_a_blind_row_holds_no_history(mini_data, tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    split = load_split(mini_data, "train")
    question = split.questions[0]
    rows = [{"question_id": question.id, "completion": target(question, knows=not blind), "blind": blind}
            for blind in (False, True)]
    batch = AnswerCollator(split, PromptTokens(tokenizer))(rows)
    seen = [tokenizer.decode(ids) for ids in batch["input_ids"]]
    learned = [tokenizer.decode(ids[labels != -100]) for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)]
    said = split.history_of(question).turns[0].content
    assert said in seen[0] and said not in seen[1]
    assert question.query in seen[0] and question.query in seen[1]
    assert learned == [row["completion"] + tokenizer.eos_token for row in rows]
    assert "Remembered: nothing." in learned[1] and "nothing" not in learned[0]
