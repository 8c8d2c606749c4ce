"""The audit: what the ledgers of a run prove of its privacy claim, for a person and for a machine."""
