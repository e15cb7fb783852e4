"""Rewards that a recipe names, the metrics beside them and the self-check."""

import subprocess
import sys

import pytest

import reward
from reward import load, personamem, self_check

GOOD = r"<think>The user said so.</think>\boxed{%s}"


@pytest.mark.parametrize("letter", "abcd")
def test_the_reward_passes_its_self_check(letter):
    self_check(letter)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda text, gold: 0.0, "the gold letter scores 0.0; it must score 1"),
        (lambda text, gold: None, "the gold letter scores None"),
        (lambda text, gold: float(text != ""), "the wrong letter a scores 1.0; it must score 0"),
        (lambda text, gold: float(rf"\boxed{{{gold}}}" in text or not text), "an empty completion"),
        (lambda text, gold: float(rf"\boxed{{{gold}}}" in text), "cut off inside the think block"),
        (
            lambda text, gold: float(text.rstrip("}").endswith("answer: \\boxed{" + gold)),
            "before the box closes",
        ),
    ],
)
def test_a_broken_reward_fails_its_self_check(broken, said):
    def scores(completions, answer):
        return [broken(text, gold) for text, gold in zip(completions, answer, strict=True)]

    with pytest.raises(ValueError, match=said):
        self_check("b", reward=scores)


@pytest.mark.parametrize("gold", ["B", "e", "", None, 0])
def test_a_gold_that_is_no_letter_fails_the_self_check(gold):
    with pytest.raises(ValueError, match="it must be one of a, b, c, d"):
        self_check(gold)


def test_rewards_are_found_by_name(tmp_path, monkeypatch):
    source = "def short(completions, **columns):\n    return [float(len(c) < 9) for c in completions]\n"
    (tmp_path / "my_rewards.py").write_text(source)
    assert load("reward.personamem") is personamem
    assert load("reward.mcq.personamem") is personamem
    assert load(f"{tmp_path}/my_rewards.py:short")(["short", "not so short"]) == [1.0, 0.0]
    monkeypatch.chdir(tmp_path)
    assert load("my_rewards.py:short").__name__ == "short"
    monkeypatch.syspath_prepend(tmp_path)
    assert load("my_rewards.short")(["short"]) == [1.0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("personamem", "expected"),
        ("", "expected"),
        (".personamem", "expected"),
        ("..mcq.personamem", "expected"),
        ("reward:personamem", "expected"),
        ("reward.personamen", "personamen does not exist in reward"),
        ("reward.mcq", "mcq is not a function in reward"),
        ("reward.mcq.LETTERS", "LETTERS is not a function in reward.mcq"),
        ("no_such_package.mine.reward", "no module named no_such_package"),
        ("reward.no_such_module.reward", "no module named reward.no_such_module"),
        ("no/such/file.py:reward", "no file .*no/such/file.py"),
        ("{file}:", "does not exist"),
        ("{file}:missing", "missing does not exist"),
    ],
)
def test_a_missing_reward_is_named(spec, said, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("")
    spec = spec.format(file=file)
    with pytest.raises(ValueError, match=said) as caught:
        load(spec)
    assert str(caught.value).startswith(f'reward "{spec}"') and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("def reward(:\n", "mine.py, line 1: invalid syntax"),
        ("import math\nmath.sqroot(2)\n", "mine.py, line 2: AttributeError: module 'math' has no attribute"),
        (
            "import no_such_package\n",
            "mine.py, line 1: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("def f():\n    raise OSError('no scores\\nhere')\n\nf()\n", "mine.py, line 2: OSError: no scores"),
    ],
)
def test_a_module_that_fails_is_named_with_its_line(content, said, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    for spec in (f"{tmp_path}/mine.py:reward", "mine.reward"):
        sys.modules.pop("mine", None)
        with pytest.raises(ValueError) as caught:
            load(spec)
        told = str(caught.value)
        assert told.startswith(f'reward "{spec}": ') and "\n" not in told
        assert said in told or (spec == "mine.reward" and "no module named no_such_package" in told)


def test_the_package_needs_no_torch():
    code = "import sys, reward; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(hasattr(reward, name) for name in reward.__all__)
