"""Errors of the tree's log-probs and gradients against plain rows, over a short batch of the same model. In
bfloat16, both are also compared with the same weights in float32, which shows whether the tree has larger
errors than plain rows.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from rft.bench.batch import Batch
from rft.bench.setting import Setting
from rft.bench.workload import Update

SHORT = {"prompt_tokens": 1024, "question_tokens": 64, "completion_tokens": 64, "memory_tokens": 64}
# attention in float32 on CUDA may keep all scores of a row
FEW = {"questions": 2, "generations": 2, "chunks": 2}


def exactness(setting: Setting, rows: Callable[[Setting], Batch]) -> dict[str, float]:
    """Returns the largest and mean errors of log-probs (nats), and the largest error of a gradient relative
    to its size."""
    short = replace(setting, **{key: min(most, getattr(setting, key)) for key, most in (SHORT | FEW).items()})
    work = Update(short, rows(short))
    plain_BC, plain_gradients = _run(work, lambda: work.plain(work.all))
    shared_BC, shared_gradients = _run(work, work.shared)
    figures = {
        "short_max_logprob_error": (shared_BC - plain_BC).abs().max().item(),
        "max_grad_rel_error": largest(shared_gradients, plain_gradients),
    }
    if short.dtype == "float32":
        return figures
    work.model.float()
    work.setting = replace(short, dtype="float32")
    exact_BC, exact_gradients = _run(work, lambda: work.plain(work.all))
    for name, logps_BC, gradients in (
        ("tree", shared_BC, shared_gradients),
        ("plain", plain_BC, plain_gradients),
    ):
        figures[f"{name}_error_to_float32"] = (logps_BC - exact_BC).abs().mean().item()
        figures[f"{name}_grad_error_to_float32"] = largest(gradients, exact_gradients)
    return figures


def _run(work: Update, path: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the log-probs and the gradients, and removes the gradients from the model."""
    work.model.zero_grad()
    logps_BC = path().float()
    weights = work.model.named_parameters()
    gradients = {name: weight.grad for name, weight in weights if weight.grad is not None}
    work.model.zero_grad()
    return logps_BC, gradients


def largest(gradients: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Returns the largest norm of a gradient's error, relative to the gradient's norm (LoRA starts with
    gradients of 0)."""
    errors = []
    for name, gradient in gradients.items():
        truth = exact[name].float()
        errors.append(((gradient.float() - truth).norm() / truth.norm().clamp_min(1e-30)).item())
    return max(errors)
