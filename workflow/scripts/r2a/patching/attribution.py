"""Direct logit attribution: what each part of a model adds to the answer's logits directly, at the last token."""

from contextlib import ExitStack
from typing import NamedTuple

import torch

from r2a.patching.patcher import Patcher
from r2a.patching.restarts import KeptRun


class Attribution(NamedTuple):
    """Parts of logit(a) - logit(b) at the last token, float32, on the CPU.

    constant [], embedding [], attention [layer] and mlp [layer] add up to the difference; heads [layer, head] add up to
    attention, except for the bias of its output projection. constant comes from the biases of the final norm and of the
    head.
    """

    constant: torch.Tensor
    embedding: torch.Tensor
    attention: torch.Tensor
    mlp: torch.Tensor
    heads: torch.Tensor


@torch.enable_grad()
def direct_attribution(patcher: Patcher, kept: KeptRun, answer_a: int, answer_b: int) -> Attribution:
    """What each part of a kept run adds to the logit difference directly, through the final norm and the head alone.

    With its scale fixed at this run's value, the final norm is linear, and so is a norm between a part and the residual
    stream. Each part's share is exact under these fixed scales, and their sum equals the logit difference (direct logit
    attribution, Elhage et al., 2021, https://transformer-circuits.pub/2021/framework). A cap on the logits is replaced
    by its tangent here. The last token must be among the run's positions.
    """
    attention, mlp, heads = written_parts(patcher, kept)
    embedding = kept.resid_pre[0][-1:].float().cpu()
    stream = kept.resid_pre[-1].float().clone().requires_grad_()  # what leaves the last layer, [1, d_model]
    nothing = torch.zeros_like(stream)
    difference, constant = (
        logits[0] - logits[1]
        for logits in (patcher.decoder.final_logits(state, [answer_a, answer_b])[0] for state in (stream, nothing))
    )
    (gradient,) = torch.autograd.grad(difference, stream)
    direction, leaving, total = gradient[0].cpu(), stream[0].detach().cpu(), float((difference - constant).detach())
    # The gradient includes the norm's scale, so it is 0 along the stream; the contribution of the stream at a fixed
    # scale is added back there. A norm that subtracts the mean does so before.
    takes_mean_off = abs(float(direction.sum())) < 1e-4 * float(direction.abs().sum())
    along = leaving - leaving.mean() if takes_mean_off else leaving
    direction = direction + along * (total - float(direction @ leaving)) / float(along @ along)
    shares = [part @ direction for part in (embedding[0], attention, mlp, heads)]
    return Attribution(constant.detach().cpu(), *shares)


@torch.no_grad()
def written_parts(patcher: Patcher, kept: KeptRun) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is added to the residual stream at the last token of a kept run, float32, on the CPU.

    By attention [layer, d_model], by the MLP [layer, d_model] and by each head [layer, head, d_model].
    """
    last = kept.positions.index(kept.n_tokens - 1)
    attention, mlp, heads = [], [], []
    for number in range(patcher.n_layers):
        entering, leaving = (kept.resid_pre[layer][-1:] for layer in (number, number + 1))
        z = kept.z[number][last]
        outputs: list[torch.Tensor] = []

        def keep(found: torch.Tensor, outputs: list[torch.Tensor] = outputs) -> torch.Tensor:
            outputs.append(found.reshape(-1, found.shape[-1])[0].float())
            return found

        with ExitStack() as hooks:
            hooks.enter_context(patcher.hook_points.hooked(number, "attn_out", keep))
            if patcher.decoder.mlps[number] is not None:
                hooks.enter_context(patcher.hook_points.hooked(number, "mlp_out", torch.zeros_like))
            without_mlp = patcher.at_last_token(kept, number, z)
        added = (without_mlp - entering.to(without_mlp))[0].float()
        attention.append(added.cpu())
        mlp.append((leaving.to(without_mlp) - without_mlp)[0].float().cpu())
        # attention's output after any norm or factor that precedes the addition
        factor = torch.where(outputs[0] == 0, 0.0, added / outputs[0])
        alone = torch.block_diag(*z.unflatten(-1, (patcher.n_heads, -1)))  # one row per head, with its z alone
        projected = patcher.decoder.projections[number](torch.cat([alone, torch.zeros_like(alone[:1])]))
        heads.append(((projected[:-1] - projected[-1]).float() * factor).cpu())
    return torch.stack(attention), torch.stack(mlp), torch.stack(heads)
