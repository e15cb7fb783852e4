"""Evaluation from dataset to report: scripted answerers through the whole path, a tiny real model in every
context."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from rft.data.prompt import CONTEXTS, messages
from rft.errors import DataError, ModelError
from rft.evaluate.answer import Answer
from rft.evaluate.model_answers import ModelAnswers
from rft.evaluate.results import read_rows
from rft.evaluate.retrieval import Retrieval
from rft.evaluate.rules import RuleAnswers
from rft.evaluate.run import batches, evaluate
from rft.models.local import LocalModel
from rft.tasks.audit import shortcuts
from rft.tasks.load import load_split


class Scripted:
    """Answers with `say(question)`, and remembers what it was asked."""

    def __init__(self, say, context="history"):
        self.say, self.context = say, context
        self.name, self.settings, self.asked = "scripted", {"script": 1}, []

    def answer(self, questions, history):
        assert (history is None) == (self.context == "none")
        assert all(history is None or q.history_id == history.id for q in questions)
        self.asked += [q.id for q in questions]
        return [Answer(self.say(q), input_tokens=7, output_tokens=3) for q in questions]


def boxed(letter):
    return f"<think>So it is.</think>\\boxed{{{letter}}}"


def mixed(question):
    """Right, wrong or unreadable, always the same for one question."""
    return random.Random(question.id).choice([boxed(question.gold), boxed("a"), "no idea"])


def numbers(summary):
    return {key: value for key, value in summary.dump().items() if key != "seconds"}


def test_scripted_models_score_what_they_must(split, tmp_path):
    perfect = evaluate(split, tmp_path / "perfect", Scripted(lambda q: boxed(q.gold)))
    assert perfect.accuracy == 1 and perfect.n == len(split.questions) == 32 and perfect.personas == 4
    assert {cell.accuracy for table in perfect.by.values() for cell in table.values()} == {1}
    always_a = evaluate(split, tmp_path / "a", Scripted(lambda q: boxed("a")))
    gold_a = sum(q.gold == "a" for q in split.questions)
    assert always_a.accuracy == gold_a / 32 and always_a.answer_letters["a"] == 32
    silent = evaluate(split, tmp_path / "silent", Scripted(lambda q: ""))
    assert (silent.accuracy, silent.unparsed_rate, silent.format_rate) == (0, 1, 0)
    hasty = evaluate(split, tmp_path / "hasty", Scripted(lambda q: f"\\boxed{{{q.gold}}}"))
    assert (hasty.accuracy, hasty.accuracy_without_gate, hasty.format_rate) == (0, 1, 0)
    refusing = evaluate(split, tmp_path / "refusing", Scripted(lambda q: "<think>No.</think>I cannot say."))
    assert (refusing.accuracy, refusing.unparsed_rate, refusing.format_rate) == (0, 1, 1)
    first = evaluate(split, tmp_path / "first", RuleAnswers("first"))
    assert first.accuracy == gold_a / 32 and first.context == "none"


def test_summary_has_the_agreed_keys(split, tmp_path):
    summary = evaluate(split, tmp_path, Scripted(mixed))
    agreed = {
        "accuracy",
        "ci95",
        "n",
        "personas",
        "unparsed_rate",
        "format_rate",
        "input_tokens_per_question",
        "by",
        "answer_letters",
        "model",
        "context",
        "data_sha256",
        "seconds",
    }
    assert agreed <= set(summary.dump()) and summary.data_sha256 == split.sha256
    assert list(summary.by) == [
        "kind",
        "pref_type",
        "who",
        "updated",
        "scenario",
        "distance",
        "pref_type_who",
        "history_length",
    ]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary.dump()
    assert "<svg" in (tmp_path / "report.html").read_text()
    for row in read_rows(tmp_path):
        assert row.score == (row.answered == row.gold) and len(row.options) == 4
        assert row.labels["pref_type"] and row.history_id in split.histories


def test_resumed_run_asks_only_what_is_missing(split, tmp_path):
    whole = evaluate(split, tmp_path / "whole", Scripted(mixed))
    evaluate(split, tmp_path / "cut", Scripted(mixed))
    path = tmp_path / "cut" / "results.jsonl"
    path.write_bytes(path.read_bytes()[:9000])
    kept = [json.loads(line)["id"] for line in path.read_text().splitlines()[:-1]]
    again = Scripted(mixed)
    assert 0 < len(kept) < 32
    assert numbers(evaluate(split, tmp_path / "cut", again)) == numbers(whole)
    assert sorted(again.asked + kept) == sorted(q.id for q in split.questions)
    idle = Scripted(mixed)
    assert evaluate(split, tmp_path / "whole", idle) == whole and idle.asked == []


def test_a_limit_grows(split, tmp_path):
    some, rest = Scripted(mixed), Scripted(mixed)
    assert evaluate(split, tmp_path, some, limit=10).n == 10
    assert sorted(some.asked) == sorted(q.id for q in split.questions[:10])
    assert numbers(evaluate(split, tmp_path, rest)) == numbers(
        evaluate(split, tmp_path / "b", Scripted(mixed))
    )
    assert len(rest.asked) == 22


def test_killed_run_is_resumed(data, split, tmp_path):
    program = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from pathlib import Path
        from rft.tasks.load import load_split
        from rft.evaluate.run import evaluate
        from test_evaluate import Scripted, mixed

        class Slow(Scripted):
            def answer(self, questions, history):
                time.sleep(0.05)
                return super().answer(questions, history)

        evaluate(load_split({str(data)!r}, "benchmark"), {str(tmp_path / "out")!r}, Slow(mixed), batch_size=1)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    path = tmp_path / "out" / "results.jsonl"
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out" / "summary.json").exists()
    done = path.read_bytes().count(b"\n")
    again = Scripted(mixed)
    summary = evaluate(split, tmp_path / "out", again)
    assert len(again.asked) == 32 - done and done >= 5
    assert numbers(summary) == numbers(evaluate(split, tmp_path / "whole", Scripted(mixed)))


def test_results_of_another_run_are_refused(data, split, tmp_path):
    evaluate(split, tmp_path, Scripted(mixed))
    with pytest.raises(DataError, match="another run .context was history, is none"):
        evaluate(split, tmp_path, Scripted(mixed, context="none"))
    with pytest.raises(DataError, match="data_sha256 was"):
        evaluate(load_split(data, "val"), tmp_path, Scripted(mixed))


def test_batches_hold_one_history(split):
    made = list(batches(split.questions, "history", 3))
    assert sorted(q.id for batch in made for q in batch) == sorted(q.id for q in split.questions)
    assert all(len({q.history_id for q in batch}) == 1 and len(batch) <= 3 for batch in made)
    assert [len(batch) for batch in batches(split.questions, "none", 20)] == [20, 12]


def test_a_tiny_model_in_every_context(model, split, tmp_path):
    tokens = {}
    for context in CONTEXTS:
        answers = ModelAnswers(model, context, max_new_tokens=6)
        summary = evaluate(split, tmp_path / context, answers, limit=9, batch_size=4)
        assert summary.n == 9 and summary.unparsed_rate == 1 and summary.cut_off_rate == 1
        row = next(row for row in read_rows(tmp_path / context) if row.id == split.questions[0].id)
        history = split.history_of(split.questions[0]) if context != "none" else None
        prompt = messages(split.questions[0], history, context)
        whole = model.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        assert row.input_tokens == len(whole) and row.output_tokens == 6
        alone = model.generate([whole], 6)
        assert row.completion == model.tokenizer.decode(alone[0], skip_special_tokens=True)
        tokens[context] = row.input_tokens
    assert tokens["none"] < tokens["history_no_persona"] < tokens["history"]


def test_padding_and_batch_do_not_change_greedy_answers(model, split):
    answers = ModelAnswers(model, "history", max_new_tokens=12)
    history = split.history_of(split.questions[0])
    questions = [q for q in split.questions if q.history_id == history.id]
    assert len({len(answers.tokens.prompt_ids(q, history)) for q in questions}) > 1
    together = answers.answer(questions, history)
    assert len({answer.completion for answer in together}) > 4
    assert together == [answers.answer([q], history)[0] for q in questions]
    short = [ModelAnswers(model, "none").tokens.prompt_ids(q, None) for q in questions]
    long = answers.tokens.prompt_ids(questions[0], history)
    assert model.generate([*short, long], 12)[:-1] == model.generate(short, 12)


def test_samples_follow_their_seed_and_leave_the_random_state(model, split):
    questions = split.questions[:4]
    state = torch.get_rng_state()

    def texts(seed, temperature=1.0):
        answers = ModelAnswers(model, "none", max_new_tokens=12, temperature=temperature, seed=seed)
        return [answer.completion for answer in answers.answer(questions, None)]

    assert texts(0) == texts(0) != texts(1)
    assert texts(0, temperature=0.0) == texts(1, temperature=0.0)
    assert torch.equal(state, torch.get_rng_state())


def test_sampling_settings_of_the_checkpoint_play_no_part(checkpoint, model, split, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "max_new_tokens": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    prompts = [ModelAnswers(model, "none").tokens.question_ids(q) for q in split.questions[:3]]
    copy = LocalModel(folder, device="cpu", dtype="float32")
    assert copy.generate(prompts, 10) == model.generate(prompts, 10)
    assert copy.fingerprint == model.fingerprint


def test_an_end_token_ends_the_answer(checkpoint, model, split, tmp_path):
    tokens = ModelAnswers(model, "none").tokens
    prompts = [tokens.prompt_ids(q, None) for q in split.questions[:3]]
    told = model.generate(prompts, 10)
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": told[0][1]}))
    ending = LocalModel(folder, device="cpu", dtype="float32")
    expected = []
    for ids in told:
        end = ids.index(told[0][1]) + 1 if told[0][1] in ids else len(ids)
        expected.append(ids[:end])
    assert ending.generate(prompts, 10) == expected and len(expected[0]) <= 2
    answer = ModelAnswers(ending, "none", max_new_tokens=10).answer(split.questions[:1], None)[0]
    assert answer.finished and answer.output_tokens == len(expected[0])


def test_weights_make_the_fingerprint(checkpoint, model, tmp_path):
    changed = shutil.copytree(checkpoint, tmp_path / "changed")
    weights = LocalModel(changed, device="cpu", dtype="float32").model
    with torch.no_grad():
        weights.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    weights.save_pretrained(changed)
    assert LocalModel(changed, device="cpu", dtype="float32").fingerprint != model.fingerprint


def test_prompts_longer_than_the_model_are_refused(model, split, tmp_path):
    with pytest.raises(
        ModelError, match=r"question benchmark-\d+: \d+ prompt tokens and up to 4000 new tokens"
    ):
        evaluate(split, tmp_path, ModelAnswers(model, "history", max_new_tokens=4000))


def test_a_longest_option_model_scores_what_the_audit_says(data, tmp_path):
    """On the train split, where there are enough ties to see how they are broken."""
    train = load_split(data, "train")
    told = shortcuts(train.questions)

    def longest(question):
        lengths = [len(option) for option in question.options]
        return boxed("abcd"[lengths.index(max(lengths))])

    summary = evaluate(train, tmp_path, Scripted(longest))
    of_rule = told["rules"]["longest option"]
    assert abs(summary.accuracy - of_rule) < 3 * (0.25 * 0.75 / told["n"]) ** 0.5
    controls = summary.controls
    # of equals the model takes the first, the rule any
    assert controls["longest"].accuracy == pytest.approx(of_rule)
    assert controls["longest"].explains == summary.explained_by_shortcut > 2 * controls["shortest"].explains
    assert controls["strongest"].accuracy == pytest.approx(told["strongest"]["score"])
    assert controls["strongest"].rule == told["strongest"]["rule"]
    assert told["gold_longest_alone"] <= summary.accuracy <= told["gold_longest"]


def test_four_orders_unmask_a_model_that_looks_at_places(split, tmp_path):
    always_a = evaluate(split, tmp_path / "a", Scripted(lambda q: boxed("a")), option_orders=4)
    assert always_a.accuracy == 0.25 and always_a.n == 32 and always_a.asked == 128
    assert always_a.option_orders.position_bias == 0.75 and always_a.option_orders.consistency == 0
    knows = evaluate(split, tmp_path / "knows", Scripted(lambda q: boxed(q.gold)), option_orders=4)
    assert (
        knows.accuracy == 1
        and knows.option_orders.consistency == 1
        and knows.option_orders.position_bias == 0
    )
    with pytest.raises(DataError, match="option_orders was 4, is None"):
        evaluate(split, tmp_path / "a", Scripted(lambda q: boxed("a")))


def test_blind_control_is_asked_once_and_kept(split, tmp_path):
    blind = Scripted(mixed, context="none")
    summary = evaluate(split, tmp_path, Scripted(lambda q: boxed(q.gold)), samples=2, blind=blind, limit=10)
    assert len(blind.asked) == 10 and summary.asked == 20 and summary.n == 10
    assert summary.controls["blind"].accuracy == summary.controls["blind"].explains
    rows = read_rows(tmp_path / "blind")
    assert len(rows) == 10 and summary.controls["blind"].accuracy == sum(row.score for row in rows) / 10
    again = Scripted(mixed, context="none")
    assert (
        numbers(evaluate(split, tmp_path, Scripted(None), samples=2, blind=again, limit=10))
        == numbers(summary)
        and not again.asked
    )


def test_retrieval_and_samples_with_a_tiny_model(model, split, tmp_path):
    context = Retrieval(2)
    greedy = evaluate(split, tmp_path / "r", ModelAnswers(model, context, max_new_tokens=6), limit=6)
    row = read_rows(tmp_path / "r")[0]
    question = next(q for q in split.questions if q.id == row.id)
    made = context.messages(question, split.history_of(question))
    whole = model.tokenizer.apply_chat_template(made, add_generation_prompt=True, return_dict=False)
    assert (
        row.input_tokens == len(whole) and row.read.startswith("messages ") and greedy.context == "retrieval"
    )
    drawn = evaluate(
        split,
        tmp_path / "s",
        ModelAnswers(model, "history", max_new_tokens=6, temperature=1.0),
        limit=4,
        samples=3,
        batch_size=12,
    )
    rows = read_rows(tmp_path / "s")
    assert drawn.n == 4 and len(rows) == 12 and len({row.completion for row in rows}) > 4
    again = evaluate(
        split,
        tmp_path / "t",
        ModelAnswers(model, "history", max_new_tokens=6, temperature=1.0),
        limit=4,
        samples=3,
        batch_size=12,
    )
    assert numbers(again) == numbers(drawn)
