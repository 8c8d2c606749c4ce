"""Recall against epsilon: every (epsilon, seed) of a configuration beside its peers, as a table, a plot and a page."""
