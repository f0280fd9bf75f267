"""Adam as the released code steps it: TensorFlow's epsilon, a warm-up, decay apart from the rate, one norm for all."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from harness.optimizers import adam_state, clip_in_step, load_adam_state, make_adam
from mwm.config import AdamConfig

FAR = 1e9  # a step count at which torch's bias corrections are exactly 1


class Optimizer:
    """Steps one part of the model: gradient, clip, decay, Adam. Counts and rates are tensors, for a recording.

    eps "tensorflow": lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps). The corrections stand in the rate, so that
    they leave eps alone, and torch's Adam makes none of its own. "torch": its own Adam, where eps counts against the
    corrected second moment.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: AdamConfig, eps: str):
        self.config, self.corrects = config, eps == "tensorflow"
        self.parameters = list(parameters)
        device = self.parameters[0].device
        self.decayed = [weight for weight in self.parameters if config.decayed == "all" or weight.dim() > 1]
        self.updates = torch.zeros((), dtype=torch.int64, device=device)
        self.rate = torch.zeros((), device=device)
        betas = (config.beta1, config.beta2)
        groups = [{"params": self.parameters, "lr": self.rate}]
        self.adam = make_adam(groups, 0.0, betas, config.eps, clipped=True)
        if self.corrects:
            for entry in self.adam.state.values():
                entry["step"].fill_(FAR)

    def step(self, loss: Tensor) -> Tensor:
        """Steps down the gradient of `loss`; returns the norm that it has before the clip, []."""
        self.adam.zero_grad(set_to_none=True)
        loss.backward(inputs=self.parameters)
        return self.step_gradients()

    @torch.no_grad()
    def step_gradients(self) -> Tensor:
        """One step with the gradients that the parameters have."""
        config = self.config
        norm = clip_in_step(self.adam, config.clip_norm)
        torch._foreach_mul_(self.decayed, 1 - config.weight_decay)
        made = self.updates.double()
        warm = (made / config.warmup_updates).clamp(max=1) if config.warmup_updates else torch.ones_like(made)
        rate = config.learning_rate * warm
        if self.corrects:
            rate = rate * (1 - config.beta2 ** (made + 1)).sqrt() / (1 - config.beta1 ** (made + 1))
        self.rate.copy_(rate)
        self.adam.step()
        self.updates.add_(1)
        return norm

    def state(self) -> dict:
        return {"updates": self.updates, "adam": adam_state(self.adam)}

    @torch.no_grad()
    def load_state(self, state: dict) -> None:
        self.updates.copy_(state["updates"])
        load_adam_state(self.adam, state["adam"])
