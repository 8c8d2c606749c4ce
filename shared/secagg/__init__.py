"""Secure aggregation: the server learns the sum of its clients' vectors, nothing else (docs/secure-aggregation.md)."""
