"""A decode step: the same function as the model's own forward in few operations, one shape, and no read by
the host."""

import logging
from contextlib import contextmanager, nullcontext

import emulated_graph
import emulated_kernels
import pytest
import torch
from emulated_graph import Counted, Uncapturable, host_reads
from test_prefix_tree_sample import EOS, generate
from tiny_families import FAMILIES, farthest, lora, model_of, prompts_of, seeded, trained
from transformers import AutoModelForCausalLM, Olmo2Config
from trl.trainer.utils import add_fused_lm_head

from rft.errors import ModelError
from rft.prefix_tree import cache, forward, graph, weights
from rft.prefix_tree import sample as sampling
from rft.prefix_tree.attention import enable, forward_kwargs
from rft.prefix_tree.decode import Decode, Prefill
from rft.prefix_tree.forward import Fused, General, forward_of
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.sample import Draw, Pace, sample

OPERATIONS = 40
"""Most operations of a layer and a decode token."""


@pytest.fixture
def cuda_pace(monkeypatch):
    """Rows are looked at and dropped as on CUDA."""
    monkeypatch.setattr(sampling, "pace", lambda device: Pace(16, True))


@contextmanager
def on_cuda(monkeypatch):
    """The branches of CUDA, kernels and graphs emulated; yields the graphs."""
    with emulated_kernels.on_cpu(monkeypatch), emulated_graph.on_cpu(monkeypatch) as graphs:
        yield graphs


@contextmanager
def forwards_of(monkeypatch):
    """Yields the kinds of forwards that are made."""
    made = []

    def spy(*args):
        made.append(forward_of(*args))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "forward_of", spy)
        yield made


def prefilled(model, prompts, most=8):
    """A decode plan after the prompts' forward, and each row's first token and position."""
    tree = Tree(prompts)
    order = sorted(range(len(prompts)), key=tree.leaves.__getitem__)
    prefill = Prefill(tree)
    with torch.no_grad():
        model(**forward_kwargs(tree.tokens_T, tree.positions_T, prefill))
    last = torch.tensor([tree.nodes[tree.leaves[row]].end - 1 for row in order])
    return Decode(prefill, [tree.leaves[row] for row in order], most), tree.positions_T[last] + 1


def logits_of(model, prompts, make, steps=3):
    """The logits of some decode steps with tokens of our own."""
    decode, positions = prefilled(model, prompts)
    step = make(model, decode)
    logits = []
    with torch.no_grad():
        for token in range(steps):
            decode.suffixes.grow()
            logits.append(step(torch.arange(len(prompts)) + token, positions + token))
            decode.suffixes.length += 1
    return torch.stack(logits)


def fused(model, decode):
    made = forward_of(model, model, decode, range(40, 100))
    assert isinstance(made, Fused)
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_known_layers_in_few_operations_are_the_models_own(family, monkeypatch):
    def norm(self, x):  # transformers' rounds to float32
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    model = model_of(family, torch.float64)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            monkeypatch.setattr(type(module), "forward", norm)
    prompts = prompts_of()
    found, expected = (logits_of(model, prompts, make) for make in (fused, General))
    assert found.dtype == torch.float64 and (found - expected).abs().max() < 1e-10


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_logps_of_known_families_are_the_trainers(family, adapter, monkeypatch):
    model = lora(model_of(family)) if adapter else model_of(family)
    prompts = prompts_of()
    with forwards_of(monkeypatch) as made:
        completions, logps = sample(
            model, prompts, max_new_tokens=30, eos_ids=EOS, temperature=1.3, generator=seeded()
        )
    assert isinstance(made[0], Fused) and len({len(c) for c in completions}) > 2
    assert farthest(logps, trained(model, prompts, completions, 1.3)) < 1e-5
    if not adapter:
        greedy, _ = sample(model, prompts, max_new_tokens=30, eos_ids=EOS, temperature=0)
        assert greedy[::4] == [generate(model, prompt, 30) for prompt in prompts[::4]]


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("kind", ["half", "autocast", "autocast adapter"])
def test_half_precision_errs_no_more_than_the_trainer(kind, cuda, monkeypatch):
    """Both against the same weights in float64. An adapter's are float32, its base's half precision."""
    model = model_of("qwen3", torch.float32 if kind == "autocast" else torch.bfloat16)
    model = lora(model) if "adapter" in kind else model
    prompts = prompts_of()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled="autocast" in kind)
    with emulated_kernels.on_cpu(monkeypatch) if cuda else nullcontext(), autocast:
        with forwards_of(monkeypatch) as forwards:
            completions, logps = sample(model, prompts, max_new_tokens=30, eos_ids=EOS, generator=seeded())
        of_trainer = trained(model, prompts, completions)
    assert isinstance(forwards[0], Fused) and forwards[0].dtype == torch.bfloat16
    exact = trained(model.double(), prompts, completions)
    sampled = torch.zeros(exact.shape)
    for row, mine in enumerate(logps):
        sampled[row, : len(mine)] = torch.tensor(mine)
    errors = [(x - exact).norm() / exact.norm() for x in (sampled, of_trainer)]
    # merging rounds the weights to the base's precision, an error as large as that of the activations
    most = 1.3 * 2**0.5 if "adapter" in kind else 1.3
    assert 1e-3 < errors[1] < 0.3 and errors[0] < most * errors[1]


@pytest.mark.parametrize("rows, roots", [(1, 1), (300, 1), (24, 3)])
@pytest.mark.parametrize("extra", [{}, {"top_p": 0.8, "top_k": 20, "min_p": 0.02}, {"temperature": 0}])
def test_rows_at_the_pace_of_cuda(rows, roots, extra, cuda_pace):
    """Rows that have ended stay, masked, until half have; buckets are filled with copies."""
    model = model_of("qwen3")
    prompts = (prompts_of(generations=100, roots=roots) if rows == 300 else prompts_of(roots=roots))[:rows]
    eos = list(range(3))
    completions, logps = sample(model, prompts, max_new_tokens=70, eos_ids=eos, generator=seeded(), **extra)
    assert len(completions) == rows and farthest(logps, trained(model, prompts, completions)) < 1e-5
    for completion in completions:
        assert not set(completion[:-1]) & set(eos) and (len(completion) == 70 or completion[-1] in eos)
    if extra == {"temperature": 0}:
        assert completions[0] == generate(model, prompts[0], 70, eos)


def test_buckets_are_powers_of_two(cuda_pace, monkeypatch):
    model, sizes = model_of("qwen3"), []
    layer = Fused._layer

    def spy(self, number, *args):
        sizes.append(len(args[1]))
        return layer(self, number, *args)

    monkeypatch.setattr(Fused, "_layer", spy)
    completions, _ = sample(
        model, prompts_of(generations=7), max_new_tokens=200, eos_ids=[1, 2, 3], generator=seeded()
    )
    lengths = [len(completion) for completion in completions]
    expected, rows = [], len(lengths)
    for drawn in range(1, max(lengths) + 1):
        living = sum(n > drawn for n in lengths)
        if drawn % 16 == 0 and 2 * living <= rows:
            rows = 1 << (living - 1).bit_length() if living else 0
        expected += [rows, rows] if drawn < 200 else []
    while expected and len(expected) < len(sizes):  # to the next look
        expected += [rows, rows]
    assert sizes == [n for n in expected if n] and len(set(sizes)) > 3


def test_draws_are_those_of_multinomial():
    logits = torch.randn(300, 50, generator=seeded(1))
    tokens, logps = Draw(0.7, 0.9, 0, None, seeded())(logits)
    scores = (logits / 0.7).log_softmax(-1)
    probs = Draw(1.0, 0.9, 0, None, None).processors(None, scores).softmax(-1)
    assert tokens.tolist() == torch.multinomial(probs, 1, generator=seeded()).squeeze(1).tolist()
    assert torch.equal(logps, scores.gather(1, tokens[:, None]).squeeze(1))


# Operations and reads by the host.


def operations(model, prompts, device=None):
    """Operators of a decode step of two more layers, divided by two."""
    counts = []
    for layers in (1, 3):
        made = model(layers)
        decode, positions = prefilled(made, prompts)
        step = forward_of(made, made, decode, range(1100, 1200))
        tokens = torch.zeros(len(prompts), dtype=torch.long)
        with torch.no_grad():
            decode.suffixes.grow()
            step(tokens, positions)  # copies keys, once
            decode.suffixes.length += 1
            decode.suffixes.grow()
            with Counted() as counted:
                step(tokens, positions + 1)
        counts.append(counted.operators)
    return (sum(counts[1].values()) - sum(counts[0].values())) / 2


@pytest.mark.parametrize(
    "kernels, dtype", [("cpu", torch.float32), ("cuda", torch.float32), ("cuda", torch.bfloat16)]
)
def test_operations_of_a_layer_and_token(kernels, dtype, monkeypatch):
    """Over a history with several questions, as a rollout has them; an adapter adds none."""

    def model(layers, adapter=False):
        made = model_of("qwen3", dtype, num_hidden_layers=layers, max_position_embeddings=1200)
        return lora(made) if adapter else made

    with emulated_kernels.on_cpu(monkeypatch) if kernels == "cuda" else nullcontext():
        found = operations(model, prompts_of(history=1100))
        assert found == operations(lambda layers: model(layers, True), prompts_of(history=1100))
    assert 20 < found <= OPERATIONS


def test_the_host_reads_once_in_16_tokens(cuda_pace, monkeypatch):
    model, prompts = model_of("qwen3"), prompts_of()

    def reads(tokens):
        with host_reads(monkeypatch) as found:
            sample(model, prompts, max_new_tokens=tokens, eos_ids=[], top_p=0.9, generator=seeded())
        return len(found)

    assert reads(16 * 9) - reads(16 * 4) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["known", "adapter", "general"])
def test_a_step_is_captured_once_a_bucket_and_replayed(kind, dtype, monkeypatch):
    model = model_of("qwen3", dtype)
    model = lora(model).to(dtype) if kind == "adapter" else model
    if kind == "general":
        model.model.layers[0].register_forward_hook(lambda *args: None)
    prompts = prompts_of(generations=6)
    extra = {"max_new_tokens": 60, "eos_ids": list(range(3)), "top_p": 0.9, "top_k": 30}
    with on_cuda(monkeypatch) as graphs, forwards_of(monkeypatch) as made:
        replayed = sample(model, prompts, **extra, generator=seeded())
        assert isinstance(made[0], General if kind == "general" else Fused)
        assert len(graphs) > 1 and sum(one.replays for one in graphs) > 20
        monkeypatch.setattr(graph, "capture", lambda step, generator: step)
        assert sample(model, prompts, **extra, generator=seeded()) == replayed
    if dtype == torch.float32:
        assert farthest(replayed[1], trained(model, prompts, replayed[0])) < 1e-5


@pytest.mark.parametrize("what", ["item", "nonzero", "boolean", "tensor", "bool"])
def test_the_emulated_capture_refuses(what, monkeypatch):
    x = torch.arange(4.0)
    steps = {
        "item": lambda: x.add_(x.sum().item()),
        "nonzero": lambda: x.nonzero(),
        "boolean": lambda: x[x > 1],
        "tensor": lambda: x.add_(torch.tensor([1.0])),
        "bool": lambda: x.add_(1) if x.sum() > 0 else None,
    }
    with emulated_graph.on_cpu(monkeypatch), pytest.raises(Uncapturable):
        made = torch.cuda.CUDAGraph()
        with torch.cuda.graph(made):
            steps[what]()
    assert x.tolist() == [0, 1, 2, 3]


def test_a_model_that_cannot_be_captured_runs_without_a_graph(monkeypatch, caplog):
    model, prompts = model_of("qwen3"), prompts_of()
    extra = {"max_new_tokens": 20, "eos_ids": [], "temperature": 0}
    expected, _ = sample(model, prompts, **extra)

    def dynamic(module, args, kwargs, out):
        assert args[0].sum().item() < float("inf")

    model.model.layers[1].mlp.register_forward_hook(dynamic, with_kwargs=True)
    graph._cannot.cache_clear()
    with on_cuda(monkeypatch) as graphs, caplog.at_level(logging.WARNING):
        assert sample(model, prompts, **extra)[0] == expected
        assert sample(model, prompts, **extra)[0] == expected
    said = [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()]
    assert len(said) == 1 and "cannot be captured" in said[0] and "\n" not in said[0]
    assert not any(one.replays for one in graphs)


# Adapters, other families, and what goes wrong.


@pytest.mark.parametrize("fails", [False, True])
def test_the_weights_are_bit_for_bit_what_they_were(fails):
    model = lora(model_of("qwen3", torch.bfloat16)).train()
    if fails:
        model.base_model.model.lm_head.weight.data[3] = torch.nan
    before = {name: x.clone() for name, x in model.state_dict().items()}
    versions = {name: (x.data_ptr(), x._version) for name, x in model.named_parameters()}
    with pytest.raises(ModelError) if fails else nullcontext():
        sample(model, prompts_of(), max_new_tokens=8, eos_ids=EOS)
    assert versions == {name: (x.data_ptr(), x._version) for name, x in model.named_parameters()}
    for name, x in model.state_dict().items():
        assert (
            torch.equal(x.view(torch.int16), before[name].view(torch.int16))
            if fails
            else torch.equal(x, before[name])
        )


def test_adapters_that_are_off_are_not_merged():
    model = lora(model_of("qwen3"))
    prompts = prompts_of()
    with model.disable_adapter():
        plain, logps = sample(model, prompts, max_new_tokens=8, eos_ids=[], generator=seeded())
        assert farthest(logps, trained(model, prompts, plain)) < 1e-5
    assert farthest(logps, trained(model, prompts, plain)) > 1e-2


def test_a_cold_start_of_trl_decodes_in_few_operations():
    model = model_of("qwen3")
    add_fused_lm_head(model)  # replaces the model's forward, as SFTTrainer does
    assert weights.refusal(model) is None


GENERAL = {
    "DoRA": (lambda: lora(model_of("qwen3"), use_dora=True), "not a plain LoRA"),
    "dropout": (lambda: lora(model_of("qwen3"), lora_dropout=0.1).train(), "drops out 0.1"),
    "hooks": (lambda: hooked(model_of("qwen3")), "has forward hooks"),
    "gelu": (lambda: model_of("qwen3", hidden_act="gelu"), "its activation is gelu"),
    "another family": (lambda: another_family(), "Olmo2ForCausalLM is not one of"),
    "a new forward": (lambda: reforwarded(model_of("qwen3")), "has a forward of its own"),
    "a new linear": (lambda: relayered(model_of("qwen3")), "its o_proj is a Wider"),
}


def hooked(model):
    model.model.layers[1].register_forward_pre_hook(lambda *args: None)
    return model


def another_family():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        Olmo2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            vocab_size=50,
            max_position_embeddings=512,
        )
    )
    enable(model)
    return model.eval()


def reforwarded(model):
    own = model.forward
    model.forward = lambda *args, **kwargs: own(*args, **kwargs)
    return model


class Wider(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def relayered(model):
    model.model.layers[1].self_attn.o_proj.__class__ = Wider
    return model


@pytest.mark.parametrize("why", GENERAL)
def test_other_layers_run_by_the_models_own_forward(why, monkeypatch, caplog):
    make, reason = GENERAL[why]
    model = make()
    assert reason in weights.refusal(model)
    forward._say_general.cache_clear()
    with forwards_of(monkeypatch) as made, caplog.at_level(logging.INFO):
        for _ in range(2):
            completions, logps = sample(model, prompts_of(), max_new_tokens=8, eos_ids=[])
    assert isinstance(made[0], General)
    assert sum(reason in record.getMessage() for record in caplog.records) == 1
    if why != "dropout":
        assert farthest(logps, trained(model, prompts_of(), completions)) < 1e-5


def test_a_cache_that_does_not_fit_says_how_many_rows_do(monkeypatch):
    model = model_of("qwen3", max_position_embeddings=2**50)
    monkeypatch.setattr(cache, "free_bytes", lambda device: 2**54)
    with pytest.raises(ModelError, match="sampling 12 rows of up to 281474976710655 new tokens") as error:
        sample(model, prompts_of(), max_new_tokens=2**48, eos_ids=[])
    # two layers of two heads of 16 numbers of four bytes, keys and values
    assert f": {2**54 // (2 * 2 * 2 * 16 * 4 * (2**48 - 1))} rows fit; sample fewer rows" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("emulated", [False, True])
def test_a_nan_is_found_within_16_tokens_and_names_its_row(emulated, monkeypatch):
    """In row 7 at token 30, in the order in which the caller gave the rows."""
    model, prompts, drawn = model_of("qwen3"), prompts_of(questions=2, generations=6), []
    append = sampling.Rows.append

    def poisoned(self, tokens, logps):
        drawn.append(len(drawn) + 1)
        bad = torch.tensor([row == 7 and drawn[-1] >= 30 for row in self.order])
        append(self, tokens, torch.where(bad, torch.nan, logps))

    monkeypatch.setattr(sampling.Rows, "append", poisoned)
    if emulated:
        monkeypatch.setattr(sampling, "pace", lambda device: Pace(16, True))
    with pytest.raises(ModelError, match=r"row 7 \(and 0 more\) are NaN at token 30"):
        sample(model, prompts[::-1], max_new_tokens=100, eos_ids=[])
    assert len(drawn) == (32 if emulated else 30)


def test_a_nan_behind_the_end_of_a_row_is_nobodys(cuda_pace, monkeypatch):
    model, append = model_of("qwen3"), sampling.Rows.append

    def poisoned(self, tokens, logps):
        append(self, tokens, torch.where(self.ended_R, torch.nan, logps))

    monkeypatch.setattr(sampling.Rows, "append", poisoned)
    completions, logps = sample(model, prompts_of(), max_new_tokens=40, eos_ids=list(range(5)))
    assert min(map(len, completions)) < 16 and all(x == x for row in logps for x in row)
