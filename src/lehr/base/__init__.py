"""Floor 0: what every other folder may use: errors, settings, listeners, seeds, durations, name tables."""
