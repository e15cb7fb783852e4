"""A reward in a file: the right letter, and a bonus for saying it in few words.

    python examples/brief.py                                               scores four completions
    rft grpo --config quickstart/grpo.yaml --rewards examples/brief.py:brief

The contract of rewards: docs/rewards.md.
"""

import reward

FEW = 12  # words


def brief(completions, answer, options, **columns):
    """Returns 1 for the right letter after a thought, and 0.2 more if the completion has at most `FEW` words;
    None for a question without options, which it cannot score."""
    right = reward.personamem(completions, answer, options=options)
    return [
        None if score is None else score + 0.2 * (score > 0 and len(said.split()) <= FEW)
        for score, said in zip(right, completions, strict=True)
    ]


if __name__ == "__main__":
    thought = "<think>She gave up coffee for tea.</think>"
    tried = {
        "right and brief": f"{thought} \\boxed{{a}}",
        "right": f"{thought} As she told me last week, the best choice for her is \\boxed{{a}}",
        "wrong": f"{thought} \\boxed{{b}}",
        "without a thought": "\\boxed{a}",
    }
    drinks = ("A pot of green tea.", "A strong coffee.")
    rows = [reward.Example(completion=said, options=drinks, answer="a") for said in tried.values()]
    for name, score in zip(tried, brief(**reward.columns(rows)), strict=True):
        print(f"{name:<18} {score}")
