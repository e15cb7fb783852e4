"""What the prefix-tree tests share: a tiny Qwen3 that is float64 throughout, random trees of rows, and the
plainest reference."""

import random
from types import MethodType

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rft.prefix_tree.attention import enable

VOCAB = 50


def tiny_model(dtype=torch.float64, seed=0, **config):
    """Three layers with grouped-query attention. Qwen3's norm computes in float32; here it computes in the
    dtype it is given, for a float64 test to be one."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    config = {**sizes, "intermediate_size": 48, "vocab_size": VOCAB, "max_position_embeddings": 512, **config}
    model = Qwen3ForCausalLM(Qwen3Config(**config)).to(dtype)
    exact_norms(model)
    with torch.no_grad():
        # away from the initial 0.02, so that attention and logits are not flat
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    enable(model)
    return model


def exact_norms(model):
    """The model, its norms computing in their input's dtype."""
    for module in model.modules():
        if isinstance(module, Qwen3RMSNorm):
            module.forward = MethodType(_norm, module)
    return model


def _norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def tokens(rng, n):
    return [rng.randrange(VOCAB) for _ in range(n)]


def random_rows(seed, histories=2):
    """Rows of a forest of three levels (history, question, completion), unequal everywhere, some completions
    sharing their beginning; in mixed order."""
    rng = random.Random(seed)
    rows = []
    for _ in range(histories):
        history = tokens(rng, rng.randrange(1, 60))
        for _ in range(rng.randrange(1, 4)):
            question = history + tokens(rng, rng.randrange(1, 9))
            thought = tokens(rng, rng.randrange(0, 6))
            for _ in range(rng.randrange(1, 5)):
                completion = rng.choice([[], thought]) + tokens(rng, rng.randrange(0, 25))
                rows.append((question + completion, len(question)))
    rng.shuffle(rows)
    return [row for row, _ in rows], [prompt for _, prompt in rows]


def reference(model, rows, prompts, temperature=1.0):
    """Log-probs and entropies of the completions, one row at a time, by PyTorch's mathematical attention and
    the whole table of logits."""
    width = max(len(row) - prompt for row, prompt in zip(rows, prompts, strict=True))
    logps, entropies = [], []
    for row, prompt in zip(rows, prompts, strict=True):
        ids = torch.tensor([row])
        with sdpa_kernel(SDPBackend.MATH):
            all_logps = (model(ids).logits[0] / temperature).log_softmax(-1)[prompt - 1 : len(row) - 1]
        pad = (0, width - len(all_logps))
        logps.append(torch.nn.functional.pad(all_logps.gather(1, ids[0, prompt:, None])[:, 0], pad))
        entropies.append(torch.nn.functional.pad(-(all_logps.exp() * all_logps).sum(-1), pad))
    return torch.stack(logps), torch.stack(entropies)


def gradients(model, *tables):
    """Gradients of a loss in which every entry of the tables weighs differently (checkpointed layers run here
    again, so under the reference's attention)."""
    model.zero_grad()
    weights = torch.Generator().manual_seed(1)
    loss = sum(
        (table * torch.randn(table.shape, generator=weights, dtype=table.dtype)).sum() for table in tables
    )
    with sdpa_kernel(SDPBackend.MATH):
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
