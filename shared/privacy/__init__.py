"""Plan, participation, clipping, noise, accounting, ledger."""
