"""The crash harness: every way to die, fail, lose power or be tampered with that a save must survive."""

import sys
from pathlib import Path

# Run as `cd tests && python -m faults.…`, the packages must be found before the folders of their tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
