"""The crash harness: every way to die, fail, lose power or be tampered with that a save must survive."""
