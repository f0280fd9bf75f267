"""DMControl: SAC with an auxiliary loss."""
