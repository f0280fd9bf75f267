"""Mask-based Latent Reconstruction: the auxiliary objective and what both benchmarks share."""
