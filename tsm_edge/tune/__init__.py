"""Tuning: what the rules chose, corrected by measurements on the board itself."""
