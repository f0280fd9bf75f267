"""Masked World Models (Seo et al., CoRL 2022): masked autoencoder, latent dynamics on its tokens, actor and critic."""
