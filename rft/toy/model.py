"""A tiny Qwen3 and its tokenizer: the real architecture and chat markup at a size that trains on a laptop.

The tokenizer is a byte-level BPE trained on simulated texts; `<|im_start|>` and `<|im_end|>` are single
tokens as in Qwen3, so no token crosses a message boundary.
"""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{%"
    " endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEAD_DIM = 32
ROPE_THETA = 1e6  # as in large models: some dimensions of a head then hardly rotate over a whole history
LOOK_UP_GAIN = 2.0  # weight of the query and key norms: scores up to 4 * sqrt(HEAD_DIM)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE on `texts`, with the ChatML template; pad is `<|endoftext|>`, a turn ends with
    `<|im_end|>`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.add_tokens(["<think>", "</think>"])  # one token each, and ordinary text, as in Qwen3
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def make_model(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int = 128, layers: int = 4
) -> Qwen3ForCausalLM:
    """Makes a Qwen3 of about a million parameters, with its first two layers wired for look-up.

    Its weights are random: call `transformers.set_seed` first.

    Args:
        tokenizer: sets the vocabulary and the special tokens.
        hidden_size: width, a multiple of 64.
        layers: number of layers.
    """
    heads = hidden_size // HEAD_DIM
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=HEAD_DIM,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    wire_look_up(model)
    return model


@torch.no_grad()
def wire_look_up(model: Qwen3ForCausalLM) -> None:
    """Initialises the first two layers as a look-up circuit, in the spirit of mimetic initialisation (arXiv
    2305.09828).

    Heads that look things up (induction heads, arXiv 2209.11895) form in a phase transition that a model of
    this size may need thousands of steps to reach. Here the heads of layer 0 start by looking 1, 2, 3, ...
    tokens back, by position only, and each writes what it reads into its own subspace. The first key head of
    layer 1 starts by matching the current token against the token *before* each position, and copies the
    token at that position; the others match against the token *at* the position. All weights stay trainable,
    and nothing depends on a particular word.
    """
    config = model.config
    hidden = config.hidden_size
    # rotation per position, for each pair of dimensions
    angles = ROPE_THETA ** (-torch.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    generator = torch.Generator().manual_seed(7)
    embedding = model.model.embed_tokens.weight
    # dimension 0 is the same in every token: a head that reads only this sees only positions
    embedding[:, 0] = embedding.std() * hidden**0.5
    basis = torch.zeros(hidden, hidden)
    basis[1:, 1:] = torch.linalg.qr(torch.randn(hidden - 1, hidden - 1, generator=generator))[0]
    subspaces = basis[:, 1:].split(HEAD_DIM, dim=1)  # disjoint; none contains dimension 0
    # (HEAD_DIM, hidden): reads the token itself
    content = torch.nn.functional.pad(subspaces[-1], (0, HEAD_DIM - subspaces[-1].shape[1])).T

    back, match = (layer.self_attn for layer in model.model.layers[:2])
    for attention in (back, match):
        attention.q_norm.weight.fill_(LOOK_UP_GAIN)
        attention.k_norm.weight.fill_(LOOK_UP_GAIN)
    queries, keys, values = (
        w.weight.view(-1, HEAD_DIM, hidden) for w in (back.q_proj, back.k_proj, back.v_proj)
    )
    writes = back.o_proj.weight.view(hidden, -1, HEAD_DIM)
    for weight in (queries, keys, writes):
        weight.mul_(0.1)
    fast = slice(0, 3)  # the pairs that rotate fastest distinguish neighbours
    keys[:, fast, 0] += 1.0
    for head in range(config.num_attention_heads):
        turned = (head + 1) * angles[fast]  # the score is highest for the key head + 1 tokens back
        queries[head, fast, 0] += torch.cos(turned)
        queries[head, HEAD_DIM // 2 : HEAD_DIM // 2 + 3, 0] -= torch.sin(turned)
    values[:] = content
    for head, subspace in enumerate(subspaces[:-1]):
        writes[:, head] = 0.1 * subspace  # as large as the embeddings

    # pairs that hardly rotate within a history: content, not position
    slow = torch.nonzero(angles < 0.004).flatten()
    places = torch.cat([slow, slow + HEAD_DIM // 2])
    select = torch.zeros(HEAD_DIM, HEAD_DIM)
    select[places, torch.arange(len(places))] = 1.0
    match.q_proj.weight.view(-1, HEAD_DIM, hidden)[:] = select @ content
    match.k_proj.weight.view(-1, HEAD_DIM, hidden)[:] = select @ content
    match.k_proj.weight.view(-1, HEAD_DIM, hidden)[0] = select @ subspaces[0].T
    match.v_proj.weight.view(-1, HEAD_DIM, hidden)[:] = content
    match.o_proj.weight.view(hidden, -1, HEAD_DIM)[:, :2] = 0.2 * content.T[:, None]  # copies the token found
