"""Recorded videos in, one label each out: by networks of clips, one or several together."""
