"""Artefacts that a stranger may hand to us, each made to run code, write elsewhere or eat the memory."""
