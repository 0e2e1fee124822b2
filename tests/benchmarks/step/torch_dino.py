"""One train step of DINO in plain PyTorch, as its users write it: the other side of the benchmark.

ViT with learned positions, projection head, cross-entropy over pairs of views, centering, gradient
clipping per tensor, AdamW with decay of matrices only, EMA. Modules have the official names.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ values).transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim)

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
    def __init__(self, dim: int, depth: int, heads: int, patch: int, image_size: int):
        super().__init__()
        self.patch, self.grid = patch, image_size // patch
        self.patch_embed = PatchEmbed(patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
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
    def __init__(self, dim: int, prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(
            *(nn.Linear(dim, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU()),
            nn.Linear(2048, 256),
        )
        self.last_layer = LastLayer(256, prototypes)

    def forward(self, x):
        return self.last_layer(functional.normalize(self.mlp(x), dim=-1))


class Network(nn.Module):
    def __init__(self, shape: dict[str, int]):
        super().__init__()
        sizes = (shape[name] for name in ("dim", "depth", "heads", "patch", "image_size"))
        self.backbone = Backbone(*sizes)
        self.head = Head(shape["dim"], shape["prototypes"])

    def forward(self, crops):
        """[V * B, 3, H, W] crops of each size -> [all crops, K] logits."""
        return self.head(torch.cat([self.backbone(x) for x in crops]))


class Trainer:
    """State of a run; `step` moves it."""

    def __init__(self, shape: dict[str, int], weights: dict[str, Any], hyper: dict[str, Any]):
        self.student, self.teacher = Network(shape), Network(shape)
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
        )

    def step(self, index: int, crops: list[torch.Tensor]) -> float:
        """Update number `index`, from 0; crops are [V * B, 3, H, W], the global ones first."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.hyper["lr"][index]
        self.optimizer.param_groups[0]["weight_decay"] = self.hyper["weight_decay"][index]
        with torch.no_grad():
            teacher = self.teacher(crops[:1])
        loss = self.loss(self.student(crops), teacher)
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
        log_probabilities = (student / hyper["student_temperature"]).chunk(views)
        total, pairs = 0.0, 0
        for i, target in enumerate(targets.chunk(2)):
            for j, logits in enumerate(log_probabilities):
                if i != j:
                    total = total - (target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
                    pairs += 1
        mean = teacher.mean(dim=0, keepdim=True)
        self.center = self.center * hyper["center_momentum"] + mean * (1 - hyper["center_momentum"])
        return total / pairs


def parameter_count(network: nn.Module) -> int:
    return sum(math.prod(p.shape) for p in network.parameters())
