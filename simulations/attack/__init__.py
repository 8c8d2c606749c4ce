"""Attacks on a run: what an adversary gets out of the released numbers, measured on the same code path."""
