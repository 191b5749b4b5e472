"""Low-rank adapters the obvious way: the matrices are summed, and plain torch does the rest."""

import torch
from torch.func import functional_call

from openherd.model.attention import CausalAttend
from openherd.model.transformer import Transformer
from openherd.parallel.lora import A, B
from openherd.training.parity import batch_of


def plain_lora(shape, lora, read, rows, tokens, steps, *, rate, clip, decay, epsilon):
    """Losses and norms by step, gradients of the first step by name, and the summed weights after the last.

    `read` gives all parameters, the adapters' too; what `lora` trains whole is trained beside them.
    """
    model = Transformer(shape)
    names = [name for name, _ in model.named_parameters()]
    weights = {name: read(name).clone() for name in names}
    trained = {name: weights[name] for name in names if lora.trains(name)}
    for name in names:
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in lora.projections:
            trained |= {f"{module}.{kind}": read(f"{module}.{kind}").clone() for kind in (A, B)}
    for parameter in trained.values():
        parameter.requires_grad_()

    def summed():
        found = dict(weights)
        for name in trained:
            if name.endswith(B):
                module = name.removesuffix(f".{B}")
                product = trained[name] @ trained[f"{module}.{A}"]
                found[f"{module}.weight"] = weights[f"{module}.weight"] + lora.alpha / lora.rank * product
        return found

    matrices, norms = [p for p in trained.values() if p.ndim > 1], [p for p in trained.values() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, 0.95), eps=epsilon)
    losses, sizes, gradients = [], [], {}
    for step in range(steps):
        batch = batch_of(shape, step, rows, tokens)
        given = (batch["tokens_BT"], batch["positions_BT"], CausalAttend(batch["documents_BT"]))
        logits = functional_call(model, summed(), given)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels_BT"].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {name: p.grad.clone() for name, p in trained.items()}
        sizes.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), clip)))
        optimizer.step()
        losses.append(loss.item())
    return losses, sizes, gradients, {name: t.detach() for name, t in summed().items()}
