"""What was measured once: scripts that write a record, and page.py; tests compare the pages with the records only."""
