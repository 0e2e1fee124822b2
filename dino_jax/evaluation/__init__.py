"""Protocols that judge frozen features."""
