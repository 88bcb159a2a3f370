"""Rewrites of what the stages hand on."""
