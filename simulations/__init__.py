"""Many clients on one machine: data, engine, baselines, report, command line."""
