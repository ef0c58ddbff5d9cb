#!/usr/bin/env python3
"""Makes tests/golden/optim.safetensors, which src/outstep/optim/golden_test.cc compares with: what torch.optim.SGD and
AdamW and torch.nn.utils.clip_grad_norm_ do to the same parameters and gradients. Needs torch alone.

  .venv/bin/python tests/golden/make_optim_golden.py

Holds "params" [40], "gradients" [8, 40] (step 0 ends with zeros), "lr" [8], "norms" [8] (before clipping to 1), and for
each case its parameters after every step, [8, 40]. The first 24 elements decay where a case has weight decay.
"""
import torch

from make_golden import FOLDER, write_safetensors

STEPS, SIZE, DECAYING = 8, 40, 24
CASES = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "nesterov": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-8, foreach=False),
}


def run(make_optimizer, params, gradients, rates, clips):
    decaying = params[:DECAYING].clone().requires_grad_(True)
    others = params[DECAYING:].clone().requires_grad_(True)
    optimizer = make_optimizer([{"params": [decaying], "weight_decay": 0.1}, {"params": [others], "weight_decay": 0.0}])
    history, norms = [], []
    for gradient, rate in zip(gradients, rates):
        decaying.grad, others.grad = gradient[:DECAYING].clone(), gradient[DECAYING:].clone()
        if clips:
            norms.append(torch.nn.utils.clip_grad_norm_([decaying, others], 1.0))
        for group in optimizer.param_groups:
            group["lr"] = rate.item()
        optimizer.step()
        history.append(torch.cat([decaying, others]).detach().clone())
    return torch.stack(history), norms


def main():
    torch.manual_seed(1)
    params = torch.randn(SIZE)
    # From tiny to large: the moments must hold both.
    gradients = torch.randn(STEPS, SIZE) * torch.logspace(-6, 1, SIZE)
    gradients[0, -4:] = 0
    rates = torch.linspace(0.1, 0.01, STEPS)
    tensors = {"params": params, "gradients": gradients, "lr": rates}
    for name, make_optimizer in CASES.items():
        tensors[name], _ = run(make_optimizer, params, gradients, rates, clips=False)
        tensors[name + "_clipped"], norms = run(make_optimizer, params, gradients, rates, clips=True)
    tensors["norms"] = torch.stack(norms)
    write_safetensors(FOLDER / "optim.safetensors", tensors)


if __name__ == "__main__":
    main()
