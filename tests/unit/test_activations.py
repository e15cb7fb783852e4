"""MLPs in tiles, checkpoints in host memory and kept attention change what is held, and no number."""

import copy

import emulated_kernels
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_tree import random_rows, tiny_model
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from rft.errors import RecipeError
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps
from rft.train import activations
from rft.train.activations import keep_attention, offload_checkpoints, tile_mlps


def adapted(model):
    """With LoRA on every linear layer, its second matrices away from zero."""
    model = get_peft_model(
        model, LoraConfig(r=3, target_modules="all-linear", lora_dropout=0.0), autocast_adapter_dtype=False
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    return model.double()


def update(model, seed=0):
    """Log-probs and entropies of a random tree, and the gradients of a loss of both."""
    tree = Tree(*random_rows(seed))
    model.zero_grad()
    logps_BC, entropies_BC = tree_logps(model, tree, compute_entropy=True)
    (logps_BC.square().sum() + entropies_BC.sum()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logps_BC.detach(), entropies_BC.detach(), gradients


def assert_same(got, expected):
    for ours, theirs in zip(got[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    assert got[2].keys() == expected[2].keys() and got[2]
    for name, gradient in expected[2].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(got[2][name], gradient, rtol=1e-10, atol=1e-10)


def checkpointed(model):
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    return model.train()


@pytest.mark.parametrize("tokens", [1, 7, 64, 10_000], ids=lambda n: f"{n}-tokens")
@pytest.mark.parametrize("again", [True, False], ids=["checkpointing", "kept"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_tiles_change_no_number(lora, again, tokens):
    model = tiny_model()
    model = adapted(model) if lora else model
    model = checkpointed(model) if again else model.train()
    expected = update(model)
    tile_mlps(model, tokens)
    assert_same(update(model), expected)


def test_a_tile_sees_no_more_tokens_than_it_may(monkeypatch):
    model = checkpointed(tiny_model())
    tile_mlps(model, 16)
    seen = []
    whole = type(model.model.layers[0].mlp).forward
    monkeypatch.setattr(
        type(model.model.layers[0].mlp), "forward", lambda self, x: seen.append(x.shape) or whole(self, x)
    )
    tree = Tree(*random_rows(0))
    update(model)
    tokens = len(tree.tokens_T)
    assert tokens > 32 and max(shape[:-1].numel() for shape in seen) == 16
    # three layers: forward, again, and again for the backward
    assert sum(shape[:-1].numel() for shape in seen) > 2 * 3 * tokens
    model.eval()
    seen.clear()
    with torch.no_grad():
        tree_logps(model, tree)
    assert (
        sum(shape[:-1].numel() for shape in seen) == 3 * tokens
        and max(shape[:-1].numel() for shape in seen) == 16
    )


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_offload_keeps_the_inputs_of_layers_and_nothing_else(lora, reentrant, monkeypatch):
    """Also after a rollout, when TRL switches checkpointing off and on again."""
    model = tiny_model()
    model = adapted(model) if lora else model
    checkpointed(model)
    expected = update(model)
    tile_mlps(model, 16)
    offload_checkpoints(model)
    kept = []

    class Noting(saved_tensors_hooks):
        def __init__(self, **_):
            super().__init__(lambda x: kept.append(x.shape) or x.clone(), lambda x: x)

    assert activations.save_on_cpu is save_on_cpu
    monkeypatch.setattr(activations, "save_on_cpu", Noting)
    assert_same(update(model), expected)
    model.activation_checkpointing_disable()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    kept.clear()
    assert_same(update(model), expected)
    tokens = len(Tree(*random_rows(0)).tokens_T)
    assert [shape for shape in kept if shape.numel()] == [(1, tokens, 32)] * 3
    kept.clear()
    update(model.eval())
    assert not kept


def test_offload_is_torch_s_own(monkeypatch):
    model = checkpointed(tiny_model())
    expected = update(model)
    offload_checkpoints(model)
    assert_same(update(model), expected)
    pinned = []
    accelerator = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: accelerator)
    monkeypatch.setattr(activations, "save_on_cpu", lambda **how: pinned.append(how) or save_on_cpu())
    assert_same(update(model), expected)
    assert pinned == [{"pin_memory": True, "device_type": "cuda"}] * 3


@pytest.mark.parametrize("others", [False, True], ids=["alone", "tiles-and-offload"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_kept_attention_changes_no_number(lora, others, monkeypatch):
    """Also after a rollout, when TRL switches checkpointing off and on again."""
    model = tiny_model()
    model = adapted(model) if lora else model
    expected = update(checkpointed(model))
    model.activation_checkpointing_disable()
    monkeypatch.setattr(activations, "KEPT_KEYS", 1)
    if others:
        tile_mlps(model, 16)
        offload_checkpoints(model)
    keep_attention(model)
    for _ in range(2):
        checkpointed(model)
        assert_same(update(model), expected)
        model.activation_checkpointing_disable()


def test_attention_is_kept_whichever_is_said_first(monkeypatch):
    monkeypatch.setattr(activations, "KEPT_KEYS", 1)
    ran = []
    for first, second in ((checkpointed, keep_attention), (keep_attention, checkpointed)):
        model = tiny_model()
        first(model)
        second(model)
        with emulated_kernels.on_cpu(monkeypatch) as counted:
            update(model.float())
        ran.append(dict(counted))
    assert ran[0] == ran[1] and ran[0]["efficient varlen"] == ran[0]["efficient varlen backward"]


def test_only_long_spans_are_kept_and_they_are_not_computed_again():
    model = tiny_model()
    history = list(range(40))
    rows = [[*history, 41 + i, *range(i, i + 5)] for i in range(4)]
    tree = Tree(rows, [41] * 4)

    def computed():
        """Keys of every attention call that ran."""
        keys = []

        class Kernels(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                if function is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
                    keys.append(args[1].shape[2])
                return function(*args, **kwargs or {})

        with Kernels():  # below the modes of the checkpoint
            tree_logps(model, tree)[0].sum().backward()
        return keys

    checkpointed(model)
    twice = computed()
    model.activation_checkpointing_disable()
    keep_attention(model)
    checkpointed(model)
    assert sorted(computed()) == sorted(twice)  # every span is shorter than KEPT_KEYS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activations, "KEPT_KEYS", 40)
        once = computed()
    assert sum(keys >= 40 for keys in twice) == 2 * sum(keys >= 40 for keys in once) > 0
    assert [keys for keys in sorted(twice) if keys < 40] == [keys for keys in sorted(once) if keys < 40] != []


def test_every_attention_operator_of_the_tree_can_be_kept(monkeypatch):
    """Over the emulated kernels of CUDA; flash_attn's operators are not there to be checkpointed."""
    for dtype in (torch.bfloat16, torch.float32):
        model = checkpointed(tiny_model(dtype))
        with emulated_kernels.on_cpu(monkeypatch) as ran:
            expected = update(model)
            computed = sum(ran.values())
        model.activation_checkpointing_disable()
        monkeypatch.setattr(activations, "KEPT_KEYS", 1)
        keep_attention(model)
        checkpointed(model)
        with emulated_kernels.on_cpu(monkeypatch) as ran:
            assert all(torch.equal(x, y) for x, y in zip(update(model)[:2], expected[:2], strict=True))
        forward = sum(n for name, n in ran.items() if "backward" not in name)
        assert computed == sum(ran.values()) + forward, "the forward ran once instead of twice"


def test_a_copy_of_a_model_computes_with_its_own_weights():
    model = checkpointed(tiny_model())
    tile_mlps(model, 16)
    offload_checkpoints(model)
    twin = copy.deepcopy(model)
    expected = update(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert_same(update(twin), expected)


def test_a_model_without_mlps_is_refused():
    with pytest.raises(RecipeError, match="mlp_tile_tokens: the layers of Linear have no `mlp`"):
        tile_mlps(nn.Linear(2, 2), 16)
