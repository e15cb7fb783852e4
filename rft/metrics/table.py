"""The table of all metrics. To add one, add an entry: it is then logged, on the page of `rft report`, in the
W&B workspace and in docs/metrics.md (`python -m rft.metrics.page docs/metrics.md`).

Invariant: whoever logs or shows a metric of ours finds it here. A metric without a value in a step is absent,
not 0: those of letters, for questions without options or rewards that cannot take the gold letter.
"""

from collections.abc import Callable, Iterable

from reward.mcq import LETTERS, Reading
from rft.metrics.metric import BOTH, NATS, NUMBER, SECONDS, SUMMARY, TOKENS, Metric, Registry
from rft.metrics.step import Step, deviation

RUN = "the training"  # what the values of a whole training are over

# titles of charts with several metrics
KINDS = "Right and consistent, by kind of question"
WORDS = "Words and box"
HELD_OUT = "Right and consistent, held-out personas"
LINES = "Lines of memories, held-out personas"
FORM = "Form"
LENGTHS = "Length of completions, tokens"
MEMORIES = "Length of memories and updates, tokens"
NOT_KEPT = "Updates not kept"
FLAT = "Groups without a difference"
TIMES = "Seconds"


def read(
    of: Callable[[Reading, str], float | None], blind: bool | None = None
) -> Callable[[Step], Iterable[float]]:
    """Values from the readings and gold letters of answers: of all, of those without their history, or of
    those with it. None is no value."""
    return lambda step: [
        value
        for answer in step.answers
        if answer.reading is not None and blind in (None, answer.blind)
        if (value := of(answer.reading, answer.gold)) is not None
    ]


def by_kind(of: Callable[[Reading, str], float]) -> Callable[[Step], dict[str, list[float]]]:
    """Values of the answers with their history, by kind of question."""

    def values(step: Step) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for answer in step.answers:
            if answer.reading is not None and not answer.blind and answer.kind:
                found.setdefault(answer.kind, []).append(of(answer.reading, answer.gold))
        return found

    return values


def scores(step: Step) -> dict[str, list[float]]:
    """What each reward function gave."""
    found: dict[str, list[float]] = {}
    for answer in step.answers:
        for name, score in answer.scores.items():
            found.setdefault(name, []).append(score)
    return found


def spread(step: Step) -> list[float]:
    """Deviations of rewards: of all completions, as in TRL; with memories, of each group."""
    rewards = [[trajectory.reward for trajectory in group] for group in step.groups]
    has_memories = any(trajectory.memory_tokens is not None for trajectory in step.trajectories)
    return [deviation(of_group) for of_group in (rewards if has_memories else [sum(rewards, [])])]


def ended(step: Step) -> list[int]:
    """Lengths of the completions that ended by themselves, or 0."""
    return [answer.tokens for answer in step.answers if answer.ended] or [0]


def _right_and_consistent(reading: Reading, gold: str) -> bool:
    return reading.right(gold) and reading.consistent


def _letters(step: Step) -> dict[str, list[float]]:
    named = [answer.reading.letter or "none" for answer in step.answers if answer.reading]
    shown = LETTERS[: max((answer.options for answer in step.answers), default=0)]
    return {letter: [name == letter for name in named] for letter in (*shown, "none")}


def whole_groups(are: bool) -> Callable[[Step], Iterable[float]]:
    """Whether all completions of a question are right, or all are wrong."""
    return lambda step: [
        all(answer.reading.right(answer.gold) == are for answer in answers if answer.reading)
        for group in step.groups
        for answers in zip(*(trajectory.answers for trajectory in group), strict=True)
        if all(answer.reading and not answer.blind for answer in answers)
    ]


# fmt: off
REGISTRY = Registry([

    # what is learned
    Metric("reward", "Mean reward; of a memory, that of its answers, without the bonus.", NUMBER,
           lambda s: [t.reward - t.bonus for t in s.trajectories], over="rollouts", panel="Reward",
           series="mean"),
    Metric("reward_std",
           "Deviation of the rewards: of all completions of the step; of memories, within a group.", NUMBER,
           spread, over="groups", panel="Reward", series="spread within a group"),
    Metric("rewards/NAME/mean", "Mean of what one reward function gave.", NUMBER, scores),
    Metric("rewards/NAME/std", "Deviation of what one reward function gave.", NUMBER, scores, "deviation"),
    Metric("right_and_consistent",
           "Answers whose box names the gold letter and whose words name no other option.", over="questions",
           card="right and consistent", file=SUMMARY),
    Metric("right_and_consistent/all", "Right and consistent answers to questions asked with their history.",
           of=read(_right_and_consistent, blind=False), panel=KINDS, series="all kinds",
           card="right and consistent"),
    Metric("right_and_consistent/blind",
           "Right and consistent answers to questions asked without it (`blind_share`).",
           of=read(_right_and_consistent, blind=True), panel=KINDS, series="without the history"),
    Metric("right_and_consistent/KIND",
           "Right and consistent answers to one kind of question.",
           of=by_kind(_right_and_consistent), panel=KINDS),
    Metric("accuracy", "Answers that reason and name the gold letter (open-ended: and satisfy the judge).",
           over="questions", file=SUMMARY),
    Metric("accuracy_without_gate",
           "Answers that name the gold letter (open-ended: satisfy the judge), with or without reasoning.",
           over="questions", card="right, with or without reasoning", file=SUMMARY),
    Metric("right", "Answers whose box names the gold letter, whatever the words say.",
           over="questions", series="the box is right", file=SUMMARY),
    Metric("right_leniently", "Answers whose box names the gold letter, also in the forms of other models.",
           over="questions", series="the box is right, in other forms too", file=SUMMARY),
    Metric("right/all", "Answers whose box names the gold letter, to questions asked with their history.",
           of=read(Reading.right, blind=False), panel=WORDS, series="the box is right"),
    Metric("right/blind", "Answers whose box names the gold letter, to questions asked without it.",
           of=read(Reading.right, blind=True)),
    Metric("right/KIND", "Answers whose box names the gold letter, to one kind of question.",
           of=by_kind(Reading.right)),
    Metric("consistent", "Readable answers whose words and thought name no other option than the box.",
           of=read(lambda reading, _: reading.consistent if reading.letter else None),
           over="readable answers", panel=WORDS, series="words and box agree", card="words and box agree",
           file=BOTH),
    Metric("thought_letter_right", "Answers with one letter in parentheses in the thought: the gold letter.",
           over="questions", series="the letter in the thought is gold", file=SUMMARY),
    Metric("thought_right", "Answers whose thought names the gold option.",
           of=read(lambda reading, gold: reading.thought_names == gold), panel=WORDS,
           series="the thought names gold", card="the thought names the gold option", file=BOTH),
    Metric("answer_right", "Answers whose words name the gold option.",
           of=read(lambda reading, gold: reading.answer_names == gold), panel=WORDS,
           series="the answer names gold", file=BOTH),
    Metric("held_out/right_and_consistent",
           "Right and consistent answers about people outside the training data (`held_out_split`).",
           over="questions", panel=HELD_OUT, series="all kinds",
           card="right and consistent, held-out personas"),
    Metric("held_out/low", "Low end of the 95 % interval of `held_out/right_and_consistent`.",
           reduce="bootstrap", over="personas", panel=HELD_OUT, series="95\N{NO-BREAK SPACE}% interval, low"),
    Metric("held_out/high", "High end of the 95 % interval of `held_out/right_and_consistent`.",
           reduce="bootstrap", over="personas", panel=HELD_OUT,
           series="95\N{NO-BREAK SPACE}% interval, high"),
    Metric("held_out/unparsed_rate", "Held-out answers whose box names no letter.",
           over="questions", panel=HELD_OUT, series="without a readable answer"),
    Metric("held_out/KIND", "Right and consistent held-out answers to one kind of question.",
           over="questions", panel=HELD_OUT),
    Metric("held_out/lines_right", "Expected lines that are in the memories of held-out people.",
           over="expected lines", panel=LINES, series="right"),
    Metric("held_out/lines_wrong", "Expected lines that are there with another value.",
           over="expected lines", panel=LINES, series="wrong"),
    Metric("held_out/lines_missing", "Expected lines that are not there.",
           over="expected lines", panel=LINES, series="missing"),
    Metric("held_out/lines_extra", "Lines that are not expected, per expected line.",
           over="expected lines", panel=LINES, series="extra"),
    Metric("loss", "Loss of the optimizer step; in GRPO near 0, whatever the model learns.", NUMBER,
           over="tokens", panel="Loss", series="loss"),
    Metric("mean_token_accuracy", "Target tokens that the model ranks first.",
           over="tokens", panel="Tokens predicted correctly", series="correct",
           card="tokens predicted correctly"),

    # form of the answers
    Metric("unparsed_rate", "Answers whose box names no letter (open-ended: empty answers).",
           of=read(lambda reading, _: reading.letter is None), panel=FORM,
           series="without a readable answer", card="without a readable answer", file=BOTH),
    Metric("format_rate", "Answers that reason in closed think tags and then answer, whatever the letter.",
           of=read(lambda reading, _: reading.reasons), panel=FORM,
           series="reasoned, then answered", card="reasoned before answering", file=BOTH),
    Metric("answer_letters/LETTER", "Answers whose box names this letter; none: no letter.",
           of=_letters, panel="Letters named"),
    Metric("thought_words", "Words per thought.", NUMBER,
           read(lambda reading, _: reading.thought_words), panel="Words per thought",
           series="mean", card="words per thought", file=BOTH),
    Metric("refused_rate", "Answers that the model or its server refused.",
           card="refused to answer", file=SUMMARY),
    Metric("completions/clipped_ratio", "Completions cut off at `max_completion_length`.",
           of=lambda s: [not a.ended for a in s.answers], panel="Cut off", series="cut off",
           card="cut off at the length limit"),
    Metric("cut_off_rate", "Completions cut off at the length limit.",
           card="cut off at the length limit", file=SUMMARY),
    Metric("completions/mean_length", "Length of a completion.", TOKENS,
           lambda s: [a.tokens for a in s.answers], panel=LENGTHS, series="mean",
           card="tokens per completion"),
    Metric("completions/max_length", "Length of the longest completion.", TOKENS,
           lambda s: [a.tokens for a in s.answers], "max", panel=LENGTHS, series="longest"),
    Metric("completions/min_length", "Length of the shortest completion.", TOKENS,
           lambda s: [a.tokens for a in s.answers], "min"),
    Metric("completions/mean_terminated_length",
           "Length of a completion that ended by itself; 0 if none did.", TOKENS, ended),
    Metric("completions/max_terminated_length",
           "Length of the longest completion that ended by itself; 0 if none did.", TOKENS, ended, "max"),
    Metric("completions/min_terminated_length",
           "Length of the shortest completion that ended by itself; 0 if none did.", TOKENS, ended, "min"),
    Metric("guessing",
           "Answers that would be right if letters were guessed; a question without options counts 0.",
           over="questions", file=SUMMARY),
    Metric("exact_match", "Free answers that equal an accepted text, folded as by SQuAD.", over="questions",
           card="exact match of free answers", file=SUMMARY),
    Metric("token_f1", "Overlap of a free answer's words with the nearest accepted text (F1).",
           over="questions", card="token F1 of free answers", file=SUMMARY),
    Metric("input_tokens_per_question", "Tokens read to answer a question.", TOKENS,
           over="questions", card="tokens read per question", file=SUMMARY),
    Metric("input_tokens_with_writing",
           "Tokens read to answer a question or to write its memory, which many questions share.", TOKENS,
           over="questions", card="\N{HORIZONTAL ELLIPSIS} including writing the memory", file=SUMMARY),
    Metric("output_tokens_per_question", "Tokens written to answer a question.", TOKENS,
           over="questions", card="tokens written per question", file=SUMMARY),

    # memories
    Metric("memory/tokens", "Length of the last memory.", TOKENS,
           lambda s: [t.memory_tokens or 0 for t in s.memories], over="memories", panel=MEMORIES,
           series="last memory", card="tokens per memory"),
    Metric("memory/update_length", "Length of an update.", TOKENS,
           lambda s: [u.tokens for u in s.updates], over="updates", panel=MEMORIES, series="one update"),
    Metric("memory/cut_rate", "Updates that were too long; the memory stays as it was.",
           of=lambda s: [u.cut for u in s.updates], over="updates", panel=NOT_KEPT, series="too long"),
    Metric("memory/empty_rate", "Updates without a bullet; the memory stays as it was.",
           of=lambda s: [u.empty for u in s.updates], over="updates", panel=NOT_KEPT, series="empty"),
    Metric("memory/updates", "Updates of a memory: one per chunk of the history.", NUMBER,
           lambda s: [len(t.updates) for t in s.memories], over="memories", panel="Updates of a memory",
           series="updates"),
    Metric("memory/bonus", "What `memory_rewards` added to the reward of a memory.", NUMBER,
           lambda s: [t.bonus for t in s.memories], over="memories", panel="Bonus for memories",
           series="bonus"),

    # how the policy moves
    Metric("entropy", "Entropy of the next token.", NATS,
           over="tokens", panel="Entropy, nats", series="entropy"),
    Metric("kl", "Divergence (KL) from the reference; only if `beta` is above 0.", NATS,
           over="tokens", panel="Distance to the reference (KL), nats", series="KL"),
    Metric("grad_norm", "Norm of the gradient, before clipping.", NUMBER,
           reduce="last", over="steps", panel="Gradient norm", series="norm"),
    Metric("learning_rate", "Learning rate, as set by the schedule.", NUMBER,
           reduce="last", over="steps", panel="Learning rate", series="learning rate"),
    Metric("frac_reward_zero_std",
           "Groups whose rewards are all equal, as first drawn: nothing is learned from them.",
           of=lambda s: [deviation([t.reward for t in group]) == 0 for group in s.groups], over="groups",
           panel=FLAT, series="all rewards equal"),
    Metric("groups/all_right", "Questions of which all completions in a group are right: too easy.",
           of=whole_groups(True), over="questions of groups", panel=FLAT, series="all right"),
    Metric("groups/all_wrong", "Questions of which all completions in a group are wrong: too hard.",
           of=whole_groups(False), over="questions of groups", panel=FLAT, series="all wrong"),
    Metric("redraw/flat_before",
           "Groups from which nothing can be learned, as drawn; only with `redraw_rounds`.", over="groups",
           panel=FLAT, series="before redraws"),
    Metric("redraw/flat_after", "Groups from which nothing can be learned, as trained.", over="groups",
           panel=FLAT, series="after redraws"),
    Metric("redraw/rounds", "Rounds of redraws.", NUMBER, over="generations"),
    Metric("redraw/completions", "Completions that redraws sampled in addition, over all processes.", NUMBER,
           over="generations"),
    Metric("clip_ratio/low_mean", "Tokens clipped from below.", over="tokens"),
    Metric("clip_ratio/high_mean", "Tokens clipped from above.", over="tokens"),
    Metric("clip_ratio/region_mean", "Tokens clipped from either side.", over="tokens"),
    Metric("clip_ratio/low_min", "Tokens clipped from below, on the process with the fewest.",
           reduce="min", over="processes"),
    Metric("clip_ratio/high_max", "Tokens clipped from above, on the process with the most.",
           reduce="max", over="processes"),
    Metric("cispo_clip_ratio", "Tokens whose weight CISPO clipped.", over="tokens"),
    Metric("vespo/phi_seq_mean", "Mean weight that VESPO gave to a completion.", NUMBER),
    Metric("policy_loss", "The loss without the terms of entropy and experts.", NUMBER,
           over="processes"),
    Metric("entropy_coef", "Weight of the entropy in the loss, when it adapts.", NUMBER,
           reduce="last", over="micro-batches"),
    Metric("aux_loss", "Loss of the load of experts; only for models that have them.", NUMBER,
           over="processes"),
    Metric("sampling/logp_difference_max",
           "Largest difference between a token's log-probs in sampling and in training: about 1e-5 in"
           " float32, more in bfloat16.",
           NATS, reduce="max", over="tokens", panel="Sampled against trained log-probs",
           series="largest difference"),
    Metric("sampling/off_policy",
           "Sampled tokens whose ratio is outside the clip range before any update; above 1 % a warning is"
           " logged once.",
           over="tokens"),
    Metric("sampling/sampling_logp_difference/mean",
           "Difference between a token's log-probs in vLLM and in training.", NATS, over="tokens"),
    Metric("sampling/sampling_logp_difference/max", "Largest such difference.", NATS,
           reduce="max", over="tokens"),
    Metric("sampling/importance_sampling_ratio/mean",
           "Ratio that corrects for vLLM's own probabilities (in a sequence mode, one per row).", NUMBER,
           over="tokens"),
    Metric("sampling/importance_sampling_ratio/max", "Largest such ratio.", NUMBER,
           reduce="max", over="tokens"),
    Metric("sampling/importance_sampling_ratio/min", "Smallest such ratio.", NUMBER,
           reduce="min", over="tokens"),

    # time and cost
    Metric("step_time", "Time of an optimizer step.", SECONDS,
           over="steps", panel=TIMES, series="full step", card="seconds per step"),
    Metric("time/rollout", "Time to sample completions.", SECONDS,
           over="processes", panel=TIMES, series="sampling completions"),
    Metric("time/reward", "Time to score completions.", SECONDS,
           over="processes", panel=TIMES, series="scoring them"),
    Metric("time/redraw", "Time to sample and score what redraws draw.", SECONDS,
           over="processes", panel=TIMES, series="redraws"),
    Metric("prefix_tree/token_ratio", "How many times fewer tokens are computed than with separate rows.",
           NUMBER, over="micro-batches", panel="Tokens saved by the prefix tree, factor",
           series="fewer tokens"),
    Metric("prefix_tree/plain_path", "Micro-batches that did not use the tree, because it would not pay.",
           over="micro-batches"),
    Metric("prefix_tree/parts", "Parts of a micro-batch (`max_tree_tokens`).", NUMBER,
           over="micro-batches"),
    Metric("reward/failed_rows",
           "Completions that a reward function could not score because of its own error.",
           over="batches with failures", panel="Rewards that failed", series="share of completions",
           by_reward=True),
    Metric("judge/not_scored", "Open-ended answers that the judge could not be asked about.",
           over="batches", by_reward=True),
    Metric("num_tokens", "Tokens of all rows since the start.", TOKENS,
           reduce="last", over="steps"),
    Metric("train_runtime", "Time of the training, logged at its end.", SECONDS, reduce="sum", over=RUN),
    Metric("train_samples_per_second", "Rows per second.", NUMBER, over=RUN),
    Metric("train_steps_per_second", "Optimizer steps per second.", NUMBER, over=RUN),
    Metric("train_loss", "Loss, over all steps.", NUMBER, over=RUN),
    Metric("total_flos", "Floating-point operations of the training, as transformers estimates them.", NUMBER,
           reduce="sum", over=RUN),
])
# fmt: on

find = REGISTRY.find
named = REGISTRY.named
