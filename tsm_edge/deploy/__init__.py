"""Putting a compiled model on a device: over ssh, over adb, or as a file carried by hand."""
