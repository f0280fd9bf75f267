"""Makes a first visit to a GPU count: studies/gpu_report."""

import sys

from studies.gpu_report.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
