"""Measurements beside the peers: every figure stands next to a peer or a bound taken in the same run."""
