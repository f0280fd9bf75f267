"""Measures a new GPU within a budget of seconds: studies/gpu_report."""

from studies.gpu_report.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
