"""Answers before the rent begins: can a training start on this machine, or on this pod?"""
