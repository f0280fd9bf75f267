"""The slot for auxiliary losses: what an agent may ask of one, and which there are."""
