"""One train step of DINO in PyTorch, plain and faster: the other side of the benchmark.

ViT with learned positions, projection head, cross-entropy over pairs of views, centering, gradient
clipping per tensor, AdamW with decay of matrices only, EMA. Modules have the official names.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.benchmarks.step.torch_variants import Variant


class OnednnProduct(torch.autograd.Function):
    """functional.linear of float32 by oneDNN."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        rows, inputs = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        d_weight = _onednn(rows.t().contiguous(), inputs.t().contiguous(), None)
        return _onednn(gradient, weight.t().contiguous(), None), d_weight, rows.sum(dim=0)


def _onednn(x, weight, bias):
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


class OnednnLinear(nn.Linear):
    def forward(self, x):
        return OnednnProduct.apply(x, self.weight, self.bias)


def linear(variant: Variant, inputs: int, outputs: int) -> nn.Linear:
    return (OnednnLinear if variant.onednn else nn.Linear)(inputs, outputs)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, variant: Variant):
        super().__init__()
        self.heads, self.quick = heads, variant.quick
        self.qkv, self.proj = linear(variant, dim, 3 * dim), linear(variant, dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        if self.quick:
            mixed = functional.scaled_dot_product_attention(queries, keys, values)
        else:
            scores = queries @ keys.transpose(-2, -1) * (dim // self.heads) ** -0.5
            mixed = scores.softmax(dim=-1) @ values
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim: int, variant: Variant):
        super().__init__()
        self.fc1, self.fc2 = linear(variant, dim, 4 * dim), linear(variant, 4 * dim, dim)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, variant: Variant):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads, variant), Mlp(dim, variant)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    def __init__(
        self, variant: Variant, dim: int, depth: int, heads: int, patch: int, image_size: int
    ):
        super().__init__()
        self.patch, self.grid = patch, image_size // patch
        self.patch_embed = PatchEmbed(patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, variant) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def positions(self, grid: int):
        if grid == self.grid:
            return self.pos_embed
        table = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        scale = (grid + 0.1) / self.grid  # as the official code
        table = functional.interpolate(table, scale_factor=(scale, scale), mode="bicubic")
        table = table.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat([self.pos_embed[:, :1], table], dim=1)

    def forward(self, images):
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.positions(images.shape[-1] // self.patch)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class LastLayer(nn.Module):
    """Weight-normalised, with gains that stay at 1."""

    def __init__(self, dim: int, prototypes: int):
        super().__init__()
        self.weight_v = nn.Parameter(torch.zeros(prototypes, dim))
        self.register_buffer("weight_g", torch.ones(prototypes, 1))

    def forward(self, x):
        return functional.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class Head(nn.Module):
    def __init__(self, dim: int, prototypes: int, variant: Variant):
        super().__init__()
        self.mlp = nn.Sequential(
            *(linear(variant, dim, 2048), nn.GELU(), linear(variant, 2048, 2048), nn.GELU()),
            linear(variant, 2048, 256),
        )
        self.last_layer = LastLayer(256, prototypes)

    def forward(self, x):
        return self.last_layer(functional.normalize(self.mlp(x), dim=-1))


class Network(nn.Module):
    def __init__(self, shape: dict[str, int], variant: Variant):
        super().__init__()
        sizes = (shape[name] for name in ("dim", "depth", "heads", "patch", "image_size"))
        self.backbone = Backbone(variant, *sizes)
        self.head = Head(shape["dim"], shape["prototypes"], variant)

    def forward(self, crops):
        """[V * B, 3, H, W] crops of each size -> [all crops, K] logits."""
        return self.head(torch.cat([self.backbone(x) for x in crops]))


class Trainer:
    """State of a run; `step` moves it."""

    def __init__(
        self,
        shape: dict[str, int],
        weights: dict[str, Any],
        hyper: dict[str, Any],
        variant: Variant,
    ):
        self.variant = variant
        self.student, self.teacher = Network(shape, variant), Network(shape, variant)
        tensors = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
        for network in (self.student, self.teacher):
            network.load_state_dict(tensors)
        self.teacher.requires_grad_(False)
        self.center = torch.zeros(1, shape["prototypes"])
        self.hyper = hyper
        parameters = list(self.student.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1]},
                {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
            ],
            betas=(hyper["b1"], hyper["b2"]),
            eps=hyper["eps"],
            fused=variant.quick,
        )
        compiled = torch.compile if variant.compiled else lambda network: network
        self.run_student, self.run_teacher = compiled(self.student), compiled(self.teacher)

    def step(self, index: int, crops: list[torch.Tensor]) -> float:
        """Update number `index`, from 0; crops are [V * B, 3, H, W], the global ones first."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.hyper["lr"][index]
        self.optimizer.param_groups[0]["weight_decay"] = self.hyper["weight_decay"][index]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.variant.bfloat16):
            with torch.no_grad():
                teacher = self.run_teacher(crops[:1])
            student = self.run_student(crops)
        loss = self.loss(student.float(), teacher.float())
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.student.parameters():
            norm = parameter.grad.norm(2)
            parameter.grad.mul_(torch.clamp(self.hyper["clip_grad"] / (norm + 1e-6), max=1.0))
        self.optimizer.step()
        momentum = self.hyper["momentum"][index]
        with torch.no_grad():
            pairs = zip(self.student.parameters(), self.teacher.parameters(), strict=True)
            for student, teacher in pairs:
                teacher.mul_(momentum).add_(student, alpha=1 - momentum)
        return loss.item()

    def loss(self, student, teacher):
        hyper = self.hyper
        targets = ((teacher - self.center) / hyper["teacher_temperature"]).softmax(dim=-1)
        views = student.shape[0] // (teacher.shape[0] // 2)
        logits = student / hyper["student_temperature"]
        once = self.variant.quick
        by_view = (logits.log_softmax(dim=-1) if once else logits).chunk(views)
        total, pairs = 0.0, 0
        for i, target in enumerate(targets.chunk(2)):
            for j, view in enumerate(by_view):
                if i != j:
                    log_probabilities = view if once else view.log_softmax(dim=-1)
                    total = total - (target * log_probabilities).sum(dim=-1).mean()
                    pairs += 1
        mean = teacher.mean(dim=0, keepdim=True)
        self.center = self.center * hyper["center_momentum"] + mean * (1 - hyper["center_momentum"])
        return total / pairs


def parameter_count(network: nn.Module) -> int:
    return sum(math.prod(p.shape) for p in network.parameters())
