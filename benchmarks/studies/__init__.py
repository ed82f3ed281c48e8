"""What was measured once: scripts that write a record and the tables of a page; only the pages are tested."""
