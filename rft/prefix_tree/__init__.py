"""One history, many questions, many completions as ONE tree: every shared token is forwarded once, and
nothing changes but the time.

layout.py      rows of token ids -> the tree of their longest common prefixes, packed depth-first
kernels.py     one attention call over several spans of the packed row, on CPU and CUDA kernels
attention.py   partial attentions merged by log-sum-exp, registered with transformers as "prefix_tree"
logprobs.py    log-probs and entropies of the completions; the budget that splits a tree too large
trl_logps.py   the same for padded rows, in place of the method of TRL's trainer
sample.py      sampling with the K/V of a shared prefix stored once: what is drawn, ended and dropped
decode.py      attention of a decode step, over the tree and the rows' own tokens
cache.py       K/V of the rows' own tokens, allocated once
forward.py     the forward of a decode step, in few operations for known layers
weights.py     their weights as a rollout needs them: joined, LoRA merged, the model untouched
graph.py       a decode step as a CUDA graph
compiled.py    small functions of a decode step as one kernel each
cudnn.py       cuDNN's attention of long spans, where it is measured to pay
sequence_parallel.py, shared_rollout.py   a tree and a rollout spread over the processes of a group
support.py     refuses what cannot be shared exactly, with the reason
"""
