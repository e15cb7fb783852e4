"""The 80/20 recipe: GRPO in which a judge scores a part of the answers, and a look at held-out people during
training."""

import json

import pytest
import torch
from served import serve
from transformers import set_seed

from rft.errors import RecipeError
from rft.train.grpo import train
from rft.train.memory_grpo import train as memory_train
from rft.train.targets import grpo_rows, mixed


@pytest.fixture
def words(mini_data, tiny_checkpoint, repository, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # where verdicts are kept
    paths = {
        "config": repository / "recipes/quickstart/grpo.yaml",
        "data": mini_data,
        "model_name_or_path": tiny_checkpoint,
        "output_dir": tmp_path / "out",
        "token_cache": tmp_path / "tokens",
    }
    settings = {
        "report_to": "none",
        "per_device_train_batch_size": 32,
        "questions_per_history": 4,
        "num_generations": 8,
        "steps_per_generation": 1,
        "max_steps": 2,
        "max_completion_length": 12,
        "save_strategy": "no",
    }
    return [word for key, value in {**paths, **settings}.items() for word in (f"--{key}", str(value))]


def answers_of(trainer):
    return [row["answer"] for row in trainer.train_dataset]


def test_a_share_of_the_questions_is_open_ended_always_the_same(mini_data):
    from rft.tasks.load import load_split

    questions = load_split(mini_data, "train").questions
    once = mixed(questions, 0.2)
    assert once == mixed(questions, 0.2) and sum(q.open_ended for q in once) == round(0.2 * len(questions))
    assert [q.id for q in once] == [q.id for q in questions] and not any(
        q.open_ended for q in mixed(questions, 0.0)
    )
    for row, question in zip(grpo_rows(once), once, strict=True):
        assert (row["answer"] is None) == question.open_ended == ("Options:" not in row["prompt"])
        assert row["query"] == question.query and row["fact"]


def test_grpo_with_a_judge_masks_what_it_cannot_score(words, monkeypatch):
    """Half of the judge's calls fail for good: those answers have no reward and no advantage, the others
    do."""
    from rft.train.loop import Loop

    # the tiny model has not learned the form yet
    monkeypatch.setattr("reward.judge.has_reasoning", lambda completion: True)
    monkeypatch.setattr("reward.judge.answer_part", lambda text: text)
    seen = []
    roll_out = Loop.rollouts

    def watched(self, units):
        rollouts = roll_out(self, units)
        seen.extend((rollout.questions[0], rollout.answers[0]) for rollout in rollouts)
        return rollouts

    monkeypatch.setattr(Loop, "rollouts", watched)
    with serve(
        lambda messages: "VERDICT: " + ("YES" if len(messages[1]["content"]) % 2 else "NO"),
        lambda number: (400, {}) if number % 4 == 3 else None,
    ) as server:
        trainer = train(
            [*words, "--open_ended_share", "0.5", "--judge_base_url", server.url, "--judge_model", "played"]
        )
        assert server.requests
    scored = 0
    for question, turn in seen:
        verdict = turn.scores[1]
        if not question.open_ended:
            assert verdict != verdict  # nan: not the judge's to score
        elif verdict != verdict:
            assert turn.advantage == 0
        else:
            scored += verdict in (0.0, 1.0)
    assert scored and {None} < set(answers_of(trainer))
    log = {key for entry in trainer.state.log_history for key in entry}
    assert {"rewards/open_ended/mean", "rewards/personamem/mean", "judge/not_scored", "unparsed_rate"} <= log


def test_a_judge_scores_answers_from_memories_too(words, mini_data, repository, monkeypatch):
    """The memory's recipe with half of the questions open-ended, and some asked with an empty memory."""
    from rft.train.loop import Loop

    monkeypatch.setattr("reward.judge.has_reasoning", lambda completion: True)
    monkeypatch.setattr("reward.judge.answer_part", lambda text: text)
    seen = []
    roll_out = Loop.rollouts

    def watched(self, units):
        rollouts = roll_out(self, units)
        seen.extend(rollouts)
        return rollouts

    monkeypatch.setattr(Loop, "rollouts", watched)
    words[1] = str(repository / "recipes/quickstart/memory_grpo.yaml")
    words[words.index("--num_generations") + 1] = "2"
    words[words.index("--per_device_train_batch_size") + 1] = "8"
    sizes = [
        "--chunk_tokens",
        "200",
        "--memory_tokens",
        "12",
        "--held_out_steps",
        "9",
        "--blind_share",
        "0.5",
    ]
    with serve(lambda messages: "VERDICT: " + ("YES" if len(messages[1]["content"]) % 2 else "NO")) as server:
        judge = ["--open_ended_share", "0.5", "--judge_base_url", server.url, "--judge_model", "played"]
        trainer = memory_train([*words, *sizes, *judge, "--held_out_questions", "4"])
        assert server.requests
    turns = [turn for rollout in seen for turn in rollout.answers]
    assert {turn.question.open_ended for turn in turns} == {True, False}
    for turn in turns:
        letter, verdict = turn.scores
        assert (letter == letter) != (verdict == verdict)  # nan: not this reward's to score
        assert ("Options:" in trainer.decode([turn.prompt])[0]) != turn.question.open_ended
    assert any(turn.scores[1] == 1 for turn in turns)
    log = {key for entry in trainer.state.log_history for key in entry}
    assert {"rewards/open_ended/mean", "judge/not_scored", "right/blind", "held_out/lines_right"} <= log


def test_held_out_people_are_asked_during_training_and_nothing_else_changes(words, tmp_path):
    (tmp_path / "length.py").write_text(
        "def length(completions, **columns):\n    return [float(len(set(text))) for text in completions]\n"
    )
    # something that a tiny model can be rewarded for
    words += ["--rewards", f"{tmp_path / 'length.py'}:length"]
    set_seed(0)
    plain = train(words)
    assert any(entry.get("reward_std", 0) > 0 for entry in plain.state.log_history)
    set_seed(0)
    asked = train(
        [*words, "--held_out_split", "benchmark", "--held_out_questions", "8", "--held_out_steps", "1"]
    )
    values = [
        entry["held_out/right_and_consistent"]
        for entry in asked.state.log_history
        if "held_out/right_and_consistent" in entry
    ]
    assert len(values) == 2 and all(0 <= value <= 1 for value in values)
    assert "held_out/low" in {key for entry in asked.state.log_history for key in entry}
    for (name, one), two in zip(plain.model.named_parameters(), asked.model.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())


def test_a_judge_that_is_missing_is_told_before_anything_is_loaded(words):
    with pytest.raises(
        RecipeError, match="open-ended answers need a judge; set judge_base_url and judge_model"
    ):
        train([*words, "--open_ended_share", "0.2"])
    with pytest.raises(RecipeError, match="judge_base_url: .*nothing answers there"):
        train(
            [
                *words,
                "--open_ended_share",
                "0.2",
                "--judge_base_url",
                "http://127.0.0.1:1/v1",
                "--judge_model",
                "j",
            ]
        )
    with pytest.raises(RecipeError, match="expected a share from 0 to 1"):
        train([*words, "--open_ended_share", "20"])
