"""Scoring, re-ranking and the metrics of recall."""
