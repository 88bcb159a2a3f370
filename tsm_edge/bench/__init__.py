"""Measuring compiled models."""
