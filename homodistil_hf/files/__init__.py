"""Files and folders: written as a whole or not at all, read within bounds. Nothing here knows a model."""
