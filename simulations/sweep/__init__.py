"""Many runs at once: seeds, epsilons, presets and values of any key, in processes or on Ray, as tables and plots."""
