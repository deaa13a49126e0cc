"""Test-time adaptation of a finished network to shifted images: how far a shift is noise, and what follows."""
