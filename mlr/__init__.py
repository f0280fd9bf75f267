"""Mask-based Latent Reconstruction: the auxiliary objective and what both suites share."""
