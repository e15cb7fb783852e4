"""The tree over the kernels of CUDA: the same tests by the kernels' emulation on a CPU, and with `-m gpu` by
the kernels themselves.

What runs which branch (`flash` is PyTorch's FlashAttention, `package` that of flash_attn, `efficient`
PyTorch's memory-efficient attention, for float32, `cudnn` cuDNN for every single span and PyTorch's
FlashAttention for the others):

    branch                                              test
    VarlenCall, forward and backward: flash, package,   test_a_call_is_its_spans_alone, test_a_long_span_...,
        cudnn, efficient with its log-sum-exps          test_tree_logps_and_gradients, test_lora_...
    flash(), dense: flash, efficient                    test_a_dense_batch, test_few_queries_...,
                                                        test_sampled_logps_are_the_trees
    alike(), call(): two calls for long and short nodes test_nodes_share_a_call_within_a_factor_of_eight
    Decode._arrange(): one call for all short nodes     test_short_nodes_share_one_call_in_sampling
    Suffixes.attend(), flash_used(): flash, efficient   test_sampled_logps_are_the_trees, test_rows_attend_...
    pace(), Replayed: looks, buckets, graphs            decode: test_a_step_is_captured_...
    free_bytes()                                        bench (-m gpu)
    refusal(), check(), support.check_model             test_what_no_kernel_takes_is_refused_...
    support.check_training                              train_cuda: test_training_without_a_kernel_...
    LocalModel's fall to the plain path                 train_cuda: test_evaluation_without_a_kernel_...
    GRPO, SFT, the quickstart's first steps             train_cuda: test_two_steps_..., test_the_first_...
    flash_attn(): which package is taken                kernels: test_which_flash_attn_...
    rft.models.loading.attention and its dtype          train_cuda: test_flash_attn_is_not_asked_...
"""

import random
from dataclasses import dataclass

import emulated_kernels
import pytest
import torch
from emulated_kernels import Refused
from peft import LoraConfig, get_peft_model
from test_prefix_tree_kernels import SPANS, attention
from tiny_tree import random_rows, reference, tiny_model

from rft.errors import ModelError
from rft.prefix_tree import cudnn, decode, kernels, support
from rft.prefix_tree.attention import Plan
from rft.prefix_tree.decode import Decode, Prefill
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import plain_logps, tree_logps
from rft.prefix_tree.sample import sample

FLASH = {"flash varlen", "flash varlen backward", "flash dense", "flash used"}
ALL_KERNELS = {
    "flash": FLASH,
    "cudnn": FLASH | {"cudnn", "cudnn backward"},
    "package": {"flash_attn varlen", "flash_attn varlen backward", "flash dense", "flash used"},
    "efficient": {"efficient varlen", "efficient varlen backward", "efficient dense", "efficient used"},
}
KERNELS = tuple(ALL_KERNELS)
IN_SAMPLING = ("flash dense", "flash used", "efficient dense", "efficient used")


AUTOCAST = [
    pytest.param(place, mixed, id=f"{place}{' autocast' * mixed}", marks=[pytest.mark.gpu] * ("gpu" in place))
    for place in [*KERNELS, *(f"gpu {name}" for name in KERNELS)]
    for mixed in (False, True)
    if not (mixed and "efficient" in place)  # autocast runs in half precision
]


@dataclass
class Place:
    """Where a test runs, and which kernels of which dtype it has there. `ran` counts them, where they are
    emulated."""

    kernel: str
    device: torch.device
    ran: dict | None

    @property
    def dtype(self):
        return torch.float32 if self.kernel == "efficient" else torch.bfloat16

    @property
    def tolerance(self):
        """Of a call's outputs and gradients, relative to their size."""
        return 1e-5 if self.kernel == "efficient" else 1e-2

    def all_ran(self, *but):
        return self.ran is None or set(self.ran) == ALL_KERNELS[self.kernel] - set(but)


def gpu(*names):
    return [pytest.param(f"gpu {name}", marks=pytest.mark.gpu) for name in names]


@pytest.fixture(params=[*KERNELS, *gpu(*KERNELS)])
def place(request, monkeypatch):
    name = request.param.removeprefix("gpu ")
    if name == request.param:
        with emulated_kernels.on_cpu(monkeypatch, flash_attn=name == "package") as ran:
            if name == "cudnn":
                monkeypatch.setenv(cudnn.CHOICE, "cudnn")
                monkeypatch.setattr(cudnn, "LEAST", 2)
            yield Place(name, torch.device("cpu"), ran)
        return
    if name == "package" and kernels.flash_attn() is None:
        pytest.skip("flash-attn is not installed")
    if name in ("flash", "cudnn"):
        monkeypatch.setattr(kernels, "flash_attn", lambda: None)
    monkeypatch.setenv(cudnn.CHOICE, "cudnn" if name == "cudnn" else "flash")
    yield Place(name, torch.device("cuda"), None)


def off(found, expected):
    """Their distance over the size of what is expected."""
    return ((found.double().cpu() - expected.double().cpu()).norm() / expected.double().norm().cpu()).item()


def operands(place, n, heads, groups, size=16, requires_grad=False):
    """q, k and v in the kernel's dtype, and the same numbers in float64."""
    torch.manual_seed(0)
    rounded = [torch.randn(n, h, size).to(place.dtype) for h in (heads * groups, heads, heads)]
    return [x.to(place.device) for x in rounded], [x.double().requires_grad_(requires_grad) for x in rounded]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("spans", [*SPANS, "of one token"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_call_is_its_spans_alone(place, spans, causal, groups):
    queries, keys = {**SPANS, "of one token": ([(0, 1), (1, 2), (5, 6)], [(2, 4), (4, 9), (9, 10)])}[spans]
    keys = queries if causal else keys
    (q, k, v), exact = operands(place, 12, 2, groups, requires_grad=True)
    alone = [
        attention(exact[0][a:b], exact[1][c:d], exact[2][c:d], causal)
        for (a, b), (c, d) in zip(queries, keys, strict=True)
    ]
    out, lse = (torch.cat(parts) for parts in zip(*alone, strict=True))
    dout = torch.randn(out.shape).to(place.dtype)
    gradients = torch.autograd.grad(out, exact, dout.double())

    call = kernels.VarlenCall(queries, keys, causal, place.device)
    given = q[call.query_rows], k[call.key_rows], v[call.key_rows]
    found, found_lse = call.forward(*given, 0.3)
    assert found.dtype == place.dtype and found_lse.dtype == torch.float32 and found_lse.shape == lse.shape
    assert off(found, out) < place.tolerance and off(found_lse, lse) < place.tolerance
    shares = call.backward(dout.to(place.device), *given, found, found_lse, 0.3)
    gradients = [
        g.to(place.device)[rows]
        for g, rows in zip(gradients, (call.query_rows, call.key_rows, call.key_rows), strict=True)
    ]
    assert [share.shape for share in shares] == [gradient.shape for gradient in gradients]
    assert off(*(torch.cat([x.flatten() for x in each]) for each in (shares, gradients))) < place.tolerance


@pytest.mark.parametrize("queries, groups", [(1, 4), (4, 1), (40, 2)])
def test_a_dense_batch(place, queries, groups):
    """Over a cache with room behind its tokens, as rows hold their suffixes."""
    torch.manual_seed(0)
    q = torch.randn(3, 2 * groups, queries, 16).to(place.dtype)
    cache = torch.randn(2, 3, 2, 64, 16).to(place.dtype)
    out, lse = kernels.flash(q.to(place.device), *cache.to(place.device)[:, :, :, :37], 0.3)
    for row in range(3):
        expected = attention(*(x.double().transpose(0, 1) for x in (q[row], *cache[:, row, :, :37])), False)
        assert off(out[row].transpose(0, 1), expected[0]) < place.tolerance
        assert off(lse[row].transpose(0, 1), expected[1]) < place.tolerance


@pytest.mark.parametrize("groups", [1, 4])
def test_rows_attend_what_they_have_used_of_their_space(place, groups):
    torch.manual_seed(0)
    q = torch.randn(3 * groups, 2, 16).to(place.dtype)
    k, v = torch.randn(3, 64, 4, 16).to(place.dtype).chunk(2, 2)
    used = [1, 37, 64]
    spans = [
        part
        for size in (groups, 64)
        for part in (torch.arange(0, 3 * size + 1, size, dtype=torch.int32, device=place.device), size)
    ]
    out, lse = kernels.flash_used(
        *(x.to(place.device) for x in (q, k, v)),
        torch.tensor(used, dtype=torch.int32, device=place.device),
        tuple(spans),
        0.3,
    )
    for row, n in enumerate(used):
        mine = slice(row * groups, (row + 1) * groups)
        expected, expected_lse = attention(q[mine].double(), *(x[row, :n].double() for x in (k, v)), False)
        assert off(out[mine], expected) < place.tolerance and off(lse[mine], expected_lse) < place.tolerance


def far_rows(q, k, v, dout, rows):
    """Outputs, log-sum-exps and gradients of causal attention of one long span, where only these rows have a
    gradient; float64."""
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    k_all, v_all = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("lhd,shd->hls", q[rows], k_all) * 0.3
    scores = scores.masked_fill(torch.arange(len(k), device=k.device) > rows[:, None], -torch.inf)
    out = torch.einsum("hls,shd->lhd", scores.softmax(-1), v_all)
    return out, scores.logsumexp(-1).T, torch.autograd.grad(out, (q, k, v), dout[rows].double())


@pytest.mark.parametrize("size", [64, 128])
def test_a_long_span_beside_36_short_ones(place, size):
    """On a GPU a history of 32,768 tokens; q is not contiguous."""
    long, short = (2**15, 600) if place.ran is None else (512, 40)
    edges = [0, *range(long, long + 36 * short + 1, short)]
    spans = list(zip(edges, edges[1:], strict=False))
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(h, edges[-1], size).to(place.dtype).to(place.device).transpose(0, 1) for h in (8, 2, 2)
    )
    rows = torch.tensor([0, 1, 127, long // 2, long - 1], device=place.device)
    dout = torch.zeros_like(q).index_copy_(0, rows, torch.randn(5, 8, size).to(q))
    call = kernels.VarlenCall(spans, spans, True, place.device)
    assert len(spans) == 37 and not q.is_contiguous()
    out, lse = call.forward(q, k, v, 0.3)
    shares = call.backward(dout, q, k, v, out, lse, 0.3)
    expected, expected_lse, gradients = far_rows(*(x[:long] for x in (q, k, v, dout)), rows)
    assert off(out[rows], expected) < place.tolerance and off(lse[rows], expected_lse) < place.tolerance
    for share, gradient in zip(shares, gradients, strict=True):
        assert off(share[:long], gradient) < place.tolerance and not share[long:].any()
    start, end = spans[-1]
    expected, expected_lse, _ = far_rows(
        *(x[start:end] for x in (q, k, v, dout)), torch.arange(short, device=place.device)
    )
    assert (
        off(out[start:end], expected) < place.tolerance
        and off(lse[start:end], expected_lse) < place.tolerance
    )


@pytest.mark.parametrize("queries", [1, 4, 128])
def test_few_queries_over_a_long_history(place, queries):
    """On a GPU over 32,768 keys, which the kernel splits over its blocks."""
    torch.manual_seed(0)
    keys = 2**15 if place.ran is None else 700
    q, k, v = (torch.randn(1, h, n, 128).to(place.dtype) for h, n in ((8, queries), (2, keys), (2, keys)))
    out, lse = kernels.flash(*(x.to(place.device) for x in (q, k, v)), 0.1)
    scores = q.double() @ k.double().repeat_interleave(4, 1).transpose(2, 3) * 0.1
    assert off(out, scores.softmax(-1) @ v.double().repeat_interleave(4, 1)) < place.tolerance
    assert off(lse, scores.logsumexp(-1)) < place.tolerance


def gradients(model, logps):
    """Of a loss in which every log-prob weighs differently."""
    model.zero_grad()
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(1))
    (logps * weights.to(logps)).sum().backward()
    return torch.cat([p.grad.double().cpu().flatten() for p in model.parameters() if p.grad is not None])


def autocast(place, wanted):
    return torch.autocast(place.device.type, torch.bfloat16, enabled=wanted)


def tree_and_rows(place, model, rows, prompts, min_saving, mixed=False):
    """Log-probs and gradients through the tree, and of plain rows."""
    with autocast(place, mixed):
        tree = Tree(rows, prompts, min_saving=min_saving, device=place.device)
        shared, entropies = tree_logps(model, tree, 0.7, compute_entropy=True)
    assert torch.isfinite(entropies).all()
    of_tree = gradients(model, shared)
    with autocast(place, mixed):
        alone, _ = plain_logps(model, rows, prompts, 0.7)
    return (shared.detach(), of_tree), (alone.detach(), gradients(model, alone))


def check_close(place, tree, plain, exact, mixed=False):
    """In float32 the tree is exact; in half precision it errs no more than plain rows do, but for chance."""
    errors = [
        [off(mine, theirs) for mine, theirs in zip(result, exact, strict=True)] for result in (tree, plain)
    ]
    if mixed or place.dtype in kernels.HALF:
        for of_tree, of_rows in zip(*errors, strict=True):
            assert 1e-3 < of_rows < 0.3 and of_tree < 1.3 * of_rows
    else:
        assert max(errors[0]) < 1e-5


@pytest.mark.parametrize("min_saving", [1, 32])
@pytest.mark.parametrize("seed", range(3))
def test_tree_logps_and_gradients(place, seed, min_saving):
    rows, prompts = random_rows(seed, histories=3)
    model = tiny_model(torch.float32, seed=seed)
    logps, _ = reference(model.double(), rows, prompts, 0.7)
    exact = logps.detach(), gradients(model, logps)
    model = tiny_model(torch.float32, seed=seed).to(place.dtype).to(place.device)
    check_close(place, *tree_and_rows(place, model, rows, prompts, min_saving), exact)
    assert place.kernel == "cudnn" or place.all_ran(*IN_SAMPLING)  # no history is alone here


@pytest.mark.parametrize("place", ["cudnn", *gpu("cudnn")], indirect=True)
def test_one_history_by_cudnn(place):
    rng = random.Random(0)
    prompts = some_prompts() if place.ran is not None else some_prompts(history=401)
    rows = [prompt + [rng.randrange(50) for _ in range(9)] for prompt in prompts]
    lengths = [len(prompt) for prompt in prompts]
    model = tiny_model(torch.float32)
    logps, _ = reference(model.double(), rows, lengths, 0.7)
    exact = logps.detach(), gradients(model, logps)
    model = tiny_model(torch.float32).to(place.dtype).to(place.device)
    check_close(place, *tree_and_rows(place, model, rows, lengths, 1), exact)
    assert place.all_ran(*IN_SAMPLING)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("place, mixed", AUTOCAST, indirect=["place"])
def test_lora_under_gradient_checkpointing_and_autocast(place, mixed, use_reentrant):
    """Under autocast the weights are float32 and attention runs in bf16, else all is of the kernel's
    dtype."""
    rows, prompts = random_rows(1, histories=3)

    def lora(dtype):
        base = tiny_model(torch.float32, seed=1)
        torch.manual_seed(0)
        model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        return model.to(dtype).train()

    model = lora(torch.float64)
    logps, _ = reference(model, rows, prompts, 0.7)
    exact = logps.detach(), gradients(model, logps)
    model = lora(torch.float32 if mixed else place.dtype).to(place.device)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    check_close(place, *tree_and_rows(place, model, rows, prompts, 1, mixed), exact, mixed)
    assert (
        place.ran is None
        or place.ran["flash varlen backward"] + place.ran["flash_attn varlen backward"]
        or not mixed
    )


def some_prompts(questions=3, generations=4, history=40):
    rng = random.Random(1)
    history = [rng.randrange(50) for _ in range(history)]
    asked = [history + [rng.randrange(50) for _ in range(rng.randrange(3, 20))] for _ in range(questions)]
    return [prompt for prompt in asked for _ in range(generations)]


@pytest.mark.parametrize("place, mixed", AUTOCAST, indirect=["place"])
@pytest.mark.parametrize("long", [1024, 8])
def test_sampled_logps_are_the_trees(place, long, mixed, monkeypatch):
    """`long` 8: nodes attended where they lie, as histories are, else with their keys side by side."""
    monkeypatch.setattr(decode, "LONG", long)
    model = tiny_model(torch.float32).to(torch.float32 if mixed else place.dtype).to(place.device).eval()
    prompts = some_prompts()
    generator = torch.Generator(place.device).manual_seed(0)
    with autocast(place, mixed), torch.no_grad():
        completions, logps = sample(model, prompts, max_new_tokens=40, eos_ids=[3, 7], generator=generator)
        rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        lengths = [len(prompt) for prompt in prompts]
        trained, _ = tree_logps(model, Tree(rows, lengths, device=place.device))
        alone, _ = plain_logps(model, rows, lengths)
        exact, _ = reference(tiny_model(torch.float32).double(), rows, lengths)
    sampled = torch.zeros(alone.shape)
    for row, found in enumerate(logps):
        sampled[row, : len(found)] = torch.tensor(found)
    assert len({len(completion) for completion in completions}) > 2, "rows that end at different steps"
    check_close(place, [sampled], [alone], [exact], mixed)
    check_close(place, [trained], [alone], [exact], mixed)
    assert place.ran is None or [name for name in place.ran if "dense" in name]


@pytest.mark.parametrize("place", ["efficient", *gpu("efficient")], indirect=True)
def test_greedy_in_float32_is_generate(place):
    model = tiny_model(torch.float32).to(place.device).eval()
    prompts = some_prompts(generations=1)
    completions, _ = sample(model, prompts, max_new_tokens=30, eos_ids=[7, 8], temperature=0)
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.tensor([prompt], device=place.device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=30,
            do_sample=False,
            eos_token_id=[7, 8],
            pad_token_id=0,
        )
        assert out[0, len(prompt) :].tolist() == completion


def test_nodes_share_a_call_within_a_factor_of_eight(place):
    rows = [[1] * 3000 + [2 + q] * 90 + [10 + g] * n for q in range(3) for g, n in enumerate((1, 33, 256))]
    plan = Plan(Tree(rows, [3090] * len(rows), device=place.device))
    assert sorted(len(call.lengths[0]) - 1 for call in plan.own) == [1, 12] and len(plan.above) == 2


def test_short_nodes_share_one_call_in_sampling(place):
    prefill = Prefill(Tree([[1] * 2000 + [2 + q] * (5 * 4**q) for q in range(4)], device=place.device))
    parts = Decode(prefill, [1, 2, 3, 4], most=8)._arrange(2)
    assert [part.call is None for part in parts] == [True, False] and len(parts[1].call.lengths[2]) - 1 == 4


def test_all_that_asks_for_cuda_is_run_here():
    """A new branch belongs into the table above."""
    assert set(emulated_kernels.cuda_branches()) == {
        "flash",
        "call",
        "refusal",
        "alike",
        "Decode._arrange",
        "compiles",
        "Suffixes.attend",
        "free_bytes",
        "pace",
        "Replayed._warm_up",
    }


WRONG = {
    "float64": lambda x: ([y.double() for y in x[:3]], *x[3:]),
    "a head size of 12": lambda x: ([y[..., :12].contiguous() for y in x[:3]], *x[3:]),
    "last dimension": lambda x: ([y.transpose(1, 2).contiguous().transpose(1, 2) for y in x[:3]], *x[3:]),
    "not int32": lambda x: (x[:3], x[3].long(), *x[4:]),
    "do not cover": lambda x: (x[:3], x[3] - 1, *x[4:]),
    "longest span": lambda x: (x[:3], *x[3:5], 3, 3),
}


@pytest.mark.parametrize("why", WRONG)
def test_the_emulation_refuses_what_the_kernel_would(why, monkeypatch):
    x = [torch.randn(8, 2, 16, dtype=torch.bfloat16) for _ in range(3)]
    cu = torch.tensor([0, 3, 8], dtype=torch.int32)
    (q, k, v), cu_q, cu_k, max_q, max_k = WRONG[why]((*x, cu, cu, 5, 5))
    with emulated_kernels.on_cpu(monkeypatch), pytest.raises(Refused, match=why):
        torch.ops.aten._flash_attention_forward(
            q, k, v, cu_q, cu_k, max_q, max_k, 0.0, False, False, scale=0.3
        )


WRONG_BACKWARD = {
    "no grouped queries": ((8, 4, 16), (8, 2, 16), (2, 4, 32), torch.inf, torch.float32),
    "read behind a span": ((8, 2, 16), (8, 2, 16), (2, 2, 32), 0.0, torch.float32),
    "log-sum-exps of": ((8, 2, 16), (8, 2, 16), (2, 2, 8), torch.inf, torch.float32),
    "not torch.float64": ((8, 2, 16), (8, 2, 16), (2, 2, 32), torch.inf, torch.float64),
    "with strides": ((8, 2, 6), (8, 2, 6), (2, 2, 32), torch.inf, torch.float32),
}


@pytest.mark.parametrize("why", WRONG_BACKWARD)
def test_the_emulation_refuses_what_memory_efficient_attention_would(why, monkeypatch):
    of_q, of_k, of_lse, behind, dtype = WRONG_BACKWARD[why]
    q, k, lse = (
        torch.zeros(1, *of_q, dtype=dtype),
        torch.zeros(1, *of_k, dtype=dtype),
        torch.full(of_lse, behind),
    )
    cu, state = torch.tensor([0, 3, 8], dtype=torch.int32), torch.zeros((), dtype=torch.int64)
    with emulated_kernels.on_cpu(monkeypatch), pytest.raises(Refused, match=why):
        torch.ops.aten._efficient_attention_backward(
            q, q, k, k, None, q, cu, cu, 5, 5, lse, 0.0, state, state, 0, False, scale=0.3
        )


def test_the_emulation_leaves_no_trace(monkeypatch):
    with emulated_kernels.on_cpu(monkeypatch):
        assert isinstance(kernels.call([(0, 1)], [(0, 1)], True, torch.device("cpu")), kernels.VarlenCall)
    assert isinstance(kernels.call([(0, 1)], [(0, 1)], True, torch.device("cpu")), kernels.DenseCall)
    with pytest.raises(NotImplementedError):
        torch.ops.aten._efficient_attention_forward(
            *[torch.zeros(1, 4, 2, 8)] * 3, None, None, None, None, None, 0.0, 0, True
        )


@pytest.mark.parametrize(
    "dtype, size, reason",
    [
        (torch.float64, 16, "bf16, fp16 and float32, not torch.float64"),
        (torch.bfloat16, 12, "multiples of 8 up to 256, not 12"),
        (torch.float16, 264, "multiples of 8 up to 256, not 264"),
        (torch.float32, 6, "multiples of 4, not 6"),
    ],
)
def test_what_no_kernel_takes_is_refused_before_anything_runs(dtype, size, reason, monkeypatch):
    with emulated_kernels.on_cpu(monkeypatch) as ran:
        model = tiny_model(dtype, head_dim=size)
        with pytest.raises(ModelError, match=reason) as error:
            support.check_model(model)
        assert "`prefix_sharing: off`" in str(error.value) and "\n" not in str(error.value)
        with pytest.raises(ModelError, match=reason):  # nor does it pass where nobody asked the gate
            tree_logps(model, Tree([[1, 2, 3]], [1]))
    assert not ran
    support.check_model(tiny_model(dtype, head_dim=size))  # on a CPU nothing of it is wrong
