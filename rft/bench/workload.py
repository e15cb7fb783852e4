"""The update that `rft bench` times: a batch on a model, through the tree or by plain rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rft.bench.arithmetic import rows_flops
from rft.bench.batch import Batch
from rft.bench.policy import policy, precision
from rft.bench.setting import Setting
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import plain_logps, tree_logps


class Update:
    """The update of a batch on a model. `shared`, `plain` and `backward` return the log-probs (B, C) of the
    completions."""

    def __init__(self, setting: Setting, batch: Batch):
        self.setting, (self.rows, self.prompts) = setting, batch
        self.model = policy(setting)
        self.width = max(len(row) - prompt for row, prompt in zip(self.rows, self.prompts, strict=True))
        self.advantages_B = torch.randn(len(self.rows), generator=torch.Generator().manual_seed(0)).to(
            setting.device
        )
        self.all = list(range(len(self.rows)))

    def warm_up(self) -> None:
        """Runs a short update, so that no measurement includes one-time work."""
        rows = [row[-64:] for row in self.rows[:2]]
        with precision(self.setting):
            logps_BC, _ = tree_logps(
                self.model, Tree(rows, [len(row) // 2 for row in rows], device=self.setting.device)
            )
        logps_BC.sum().backward()

    def backward(self, logps_BC: Tensor, numbers: Sequence[int]) -> Tensor:
        """Computes the gradient of GRPO's on-policy loss, summed over tokens."""
        ratios_BC = torch.exp(logps_BC - logps_BC.detach())
        (-ratios_BC * self.advantages_B[list(numbers), None]).sum().backward()
        return logps_BC.detach()

    def shared(self) -> Tensor:
        """Runs the update through one tree."""
        with precision(self.setting):
            logps_BC, _ = tree_logps(self.model, self.tree(), compute_entropy=True)
        return self.backward(logps_BC, self.all)

    def plain(self, numbers: Sequence[int]) -> Tensor:
        """Runs the update one row at a time."""
        padded = []
        for i in numbers:
            with precision(self.setting):
                logps_1C, _ = plain_logps(self.model, [self.rows[i]], [self.prompts[i]], compute_entropy=True)
            logps_1C = self.backward(logps_1C, [i])
            padded.append(torch.nn.functional.pad(logps_1C, (0, self.width - logps_1C.shape[1])))
        return torch.cat(padded)

    def tree(self) -> Tree:
        """Returns the tree of all rows."""
        return Tree(self.rows, self.prompts, width=self.width, device=self.setting.device)

    def flops(self, numbers: Sequence[int]) -> float:
        """Returns the floating-point operations of these rows, computed separately."""
        labels = sum(len(self.rows[i]) - self.prompts[i] for i in numbers)
        return rows_flops(self.setting, [self.rows[i] for i in numbers], labels)
