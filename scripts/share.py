"""Packs a trained agent to share, or pushes it to the Hugging Face Hub: commands/share.py."""

from commands.share import main

if __name__ == "__main__":
    raise SystemExit(main())
