"""cuDNN's dense attention on a CPU, as strict as PyTorch's calls of it (ATen/native/cudnn/MHA.cpp and
sdp_utils.cpp of 2.13)."""

import torch
from emulated_kernels import HALF, attend, attend_backward, require, unwritten


def operands(q, k, v):
    """What cuDNN asks of its operands, (batch, heads, tokens, D) each."""
    require(q.dim() == k.dim() == v.dim() == 4 and len(q) == len(k) == len(v), f"operands of {q.shape}")
    require(q.dtype in HALF and q.dtype == k.dtype == v.dtype, f"operands of {q.dtype}, {k.dtype}, {v.dtype}")
    require(k.shape == v.shape and q.shape[1] % k.shape[1] == 0, f"operands of {q.shape}, {k.shape}")
    require(
        q.shape[3] == k.shape[3] and q.shape[3] % 8 == 0 and q.shape[3] <= 128, f"a head size of {q.shape}"
    )
    require(min(q.shape[2], k.shape[2]) > 1, "one query or key")
    require(all(x.stride(3) == 1 for x in (q, k, v)), "the last dimension is not contiguous")


class Cudnn:
    """PyTorch's operators, by the names and arguments of their schemas."""

    def __init__(self, ran):
        self.ran = ran

    def scaled_dot_product_cudnn_attention(
        self,
        query,
        key,
        value,
        attn_bias,
        compute_log_sumexp,
        dropout_p=0.0,
        is_causal=False,
        return_debug_mask=False,
        *,
        scale=None,
    ):
        self.ran["cudnn"] += 1
        require(
            attn_bias is None and compute_log_sumexp and dropout_p == 0, "a bias, no log-sum-exps, dropout"
        )
        require(not return_debug_mask and scale is not None, "a mask to look at, or no scale")
        operands(query, key, value)
        one = (x.transpose(1, 2) for x in (query, key, value))
        results = [attend(q, k, v, scale, is_causal) for q, k, v in zip(*one, strict=True)]
        out, lse = (torch.stack(x) for x in zip(*results, strict=True))
        nothing = torch.empty(0)
        state = (nothing, nothing, query.shape[2], key.shape[2], *torch.zeros(2, 1, dtype=torch.int64))
        return out.transpose(1, 2), lse[..., None], *state, nothing

    def scaled_dot_product_cudnn_attention_backward(
        self,
        grad_out,
        query,
        key,
        value,
        out,
        logsumexp,
        philox_seed,
        philox_offset,
        attn_bias,
        cum_seq_q,
        cum_seq_k,
        max_q,
        max_k,
        dropout_p,
        is_causal,
        *,
        scale=None,
    ):
        self.ran["cudnn backward"] += 1
        require(attn_bias is None and dropout_p == 0 and scale is not None, "a bias, dropout, or no scale")
        require((max_q, max_k) == (query.shape[2], key.shape[2]), f"longest of {max_q}, {max_k}")
        operands(query, key, value)
        for x in (grad_out, out):
            require(x.shape == query.shape and x.dtype == query.dtype and x.stride(3) == 1, "dout or out")
        require(
            logsumexp.dtype == torch.float32
            and logsumexp.shape == (*query.shape[:3], 1)
            and logsumexp.is_contiguous(),
            f"lse: {logsumexp.dtype}, {logsumexp.shape}",
        )
        q, k, v, o, dout = (x[0].transpose(0, 1) for x in (query, key, value, out, grad_out))
        dq, *each = attend_backward(dout, q, k, v, o, logsumexp[0, ..., 0], scale, is_causal)
        shares = [unwritten(*x.shape, like=x) for x in (query, key, value)]
        shares[0][0] = dq.transpose(0, 1)
        for share, gradient in zip(shares[1:], each, strict=True):
            summed = gradient.float().unflatten(1, (key.shape[1], -1)).sum(2)
            share[0] = summed.to(key.dtype).transpose(0, 1)
        return tuple(shares)
