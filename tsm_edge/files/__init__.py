"""Files and folders: written so that a reader, or a run that is cut off, never sees half of one."""
