"""Rainbow with a self-supervised auxiliary on Atari-100k."""
