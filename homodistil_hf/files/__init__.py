"""Files and folders: whole or absent, read within bounds; it knows no model."""
