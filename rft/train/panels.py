"""Which metrics belong together on a page: the sections of `rft report`, and of the W&B workspace that
`launch/wandb_workspace.py`
saves. A name that ends in / stands for all metrics that begin so."""

PANELS: dict[str, dict[str, list[str]]] = {
    "What is learned": {
        "Reward": ["reward", "reward_std"],
        "Accuracy by kind of preference": ["accuracy/"],
        "Held-out accuracy": ["held_out/accuracy"],
        "Loss": ["loss"],
    },
    "How answers look": {
        "Unreadable, and in the right form": ["unparsed_rate", "format_rate"],
        "Letters named": ["answer_letters/"],
        "Length of completions, tokens": ["completions/mean_length", "completions/max_length"],
        "Cut off": ["completions/clipped_ratio"],
    },
    "How the policy moves": {
        "Entropy, nats": ["entropy"],
        "KL to the reference, nats": ["kl"],
        "Gradient norm": ["grad_norm"],
        "Groups without a difference": ["frac_reward_zero_std"],
        "Sampled against trained log-probs, largest difference": ["sampling/logp_difference_max"],
    },
    "Where time goes": {
        "Seconds": ["step_time", "time/rollout", "time/reward"],
        "Tokens saved by the tree, times": ["prefix_tree/token_ratio"],
        "Rewards that failed, share of rows": ["reward/failed_rows"],
    },
}
