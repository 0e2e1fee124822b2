"""Backbones, heads and the network that joins them; the only place that imports flax.linen.

build.py     the tables of kinds, and the network that a config describes
network.py   a backbone with its heads
backbone.py  the protocol of backbones; vit.py, resnet.py, convnext.py
head.py      the protocol of heads; dino_head.py, mlp_head.py: one file = one kind
crops.py     the input of a backbone
the rest     parts of these: vision_transformer.py, block.py, attention.py, layers.py,
             position.py, rope.py, stem.py, stochastic_depth.py
"""
